"""Reviews of rollouts and experiments: pictures, and pages in Markdown and HTML."""

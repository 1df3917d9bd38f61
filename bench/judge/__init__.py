"""A language model as the judge: how far it agrees with people, on a collection whose answers are known."""

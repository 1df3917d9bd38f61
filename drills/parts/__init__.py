"""Parts of the drills: stages as processes, scripted stages, a proxy, a name server, faults of Qdrant."""

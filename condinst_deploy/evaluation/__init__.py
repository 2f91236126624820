"""How much two backends, or a backend and a data set, agree."""

"""The store: one SQLite file in the data directory, behind SQLAlchemy Core. Only control opens it.

`Store` runs every query in one thread of its own, in order. `schema` is the truth about the tables,
`migrations` how they came to be; one file for each entity holds its queries.
"""

"""The admin API: keys, users, teams, budgets, models. One file for each entity, rights in roles.py.

`routes` is the table of what there is and who may try it; nothing that is not in it exists. The other
modules need SQLAlchemy, so they are imported when the first request comes (`api.Api.load`).
"""

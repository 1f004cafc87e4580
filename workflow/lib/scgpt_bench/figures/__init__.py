"""The figures of the report: tables and arrays in, matplotlib figures out, one style for all.

Every function takes plain tables or arrays (the files between stages) and returns a figure; ``style.save`` writes it.
Nothing is imported here: each figure is a job of its own, and pays for its own imports only.
"""

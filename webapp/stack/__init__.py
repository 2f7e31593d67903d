"""The development stack: PostgreSQL and Redis from wheels, and the Procfile's processes.

Nothing in production imports it: its wheels are not among the requirements of production.
"""

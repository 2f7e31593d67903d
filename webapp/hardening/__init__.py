"""What is refused where Sightline is deployed: weak secrets, clear text, directories of others.

Each check takes a value, and raises `ValidationError` with a message that continues the variable's
name ("is weak") and never repeats the value, which may be a secret.
"""

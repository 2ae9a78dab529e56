"""Where early releases kept recipes; each path holds what those recipes were made of.

What a recipe did is a line or two with today's parts; ``docs/trainers.md`` has them all.
"""

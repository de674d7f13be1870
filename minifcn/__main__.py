"""``python -m minifcn`` is the command ``minifcn``."""

from .cli import main

if __name__ == "__main__":
    main()

"""``python -m spear_gym`` is the command ``spear``."""

from spear_gym.cli import main

if __name__ == "__main__":
    main()

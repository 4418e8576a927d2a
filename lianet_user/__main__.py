"""``python -m lianet_user`` is ``lianet-user``."""

from lianet_user.cli import main

if __name__ == "__main__":
    main()

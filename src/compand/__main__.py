"""``python -m compand`` is the command line."""


def _run() -> None:
    from .cli import main

    main()


if __name__ == "__main__":
    _run()

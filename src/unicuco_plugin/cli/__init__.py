"""The command ``unicuco``: one file a subcommand, each importing what is slow only when it runs."""

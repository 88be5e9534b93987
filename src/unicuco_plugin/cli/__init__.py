"""The command ``unicuco``: one file per subcommand, each importing what is slow only when it runs."""

"""Measurements on disk: written as they are made, looked up before they are made again."""

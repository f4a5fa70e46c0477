"""Readers that turn files on disk into records and label arrays, one file per dataset layout."""

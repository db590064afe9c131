"""Parameters that exist once per domain; the first ones come with the adapters issue."""

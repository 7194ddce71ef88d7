"""01: reading files, rows and their report, splits, chats and masks."""

"""Worker processes: one (``process``), many (``pool``), their messages, and shared memory."""

"""/v1/responses: its requests are read as chats, and its replies are built from theirs."""

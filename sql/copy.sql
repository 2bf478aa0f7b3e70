-- A piece of a bulk load whose keys are all new: one that is not ends it, and nothing has happened.
COPY kv_store (key, value, expires_at) FROM STDIN;

-- What a COPY takes by itself, a moment before it.
LOCK TABLE kv_store IN ROW EXCLUSIVE MODE;

-- Which of these rows somebody else has locked now. Nothing is kept of the locks that are taken for it: the answer is a hint.
WITH free AS MATERIALIZED (
    SELECT key FROM kv_store WHERE key = ANY($1::varchar[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT key FROM kv_store WHERE key = ANY($1::varchar[]) AND key NOT IN (SELECT key FROM free);

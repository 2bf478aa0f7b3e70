-- Keys in the order of their code points, whatever the order of the database is: lists go through them page by page.
CREATE INDEX IF NOT EXISTS kv_store_key_order ON kv_store (key COLLATE "C");

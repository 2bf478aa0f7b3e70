-- A row past expires_at is as good as none, and deleted by and by. The index is for whoever looks for such rows; it holds
-- only those that expire at all.
ALTER TABLE kv_store ADD COLUMN IF NOT EXISTS expires_at TIMESTAMPTZ NULL;
CREATE INDEX IF NOT EXISTS kv_store_expires_at ON kv_store (expires_at) WHERE expires_at IS NOT NULL;

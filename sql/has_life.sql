-- Is there a column expires_at, without the index that is made together with it?
SELECT to_regclass('kv_store_expires_at') IS NULL AND EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('kv_store') AND attname = 'expires_at' AND NOT attisdropped
);

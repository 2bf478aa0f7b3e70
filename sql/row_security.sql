-- Does row security apply to whoever asks? COPY is refused then.
SELECT row_security_active('kv_store'::regclass::oid) AS active;

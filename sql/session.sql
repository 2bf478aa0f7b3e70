-- Every session of hotrow. synchronous_commit is left as the server has it: "acknowledged means committed" at its level.
-- Conflicts that a stricter isolation finds would refuse what the statements decide themselves, by rows as they are.
SET TimeZone = 'UTC';
SET client_min_messages = 'warning';
SET default_transaction_isolation = 'read committed';

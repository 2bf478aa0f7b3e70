-- Every session of hotrow. synchronous_commit is left as the server has it: "acknowledged means committed" at its level.
SET TimeZone = 'UTC';
SET client_min_messages = 'warning';
-- Conflicts that a stricter isolation finds would refuse what the statements decide themselves, by rows as they are.
SET default_transaction_isolation = 'read committed';
-- Every statement finds its rows by an index, and always with the same plan. A plan made anew for each execution takes longer
-- than the look-up of a row itself, and the server does so for arrays of one key: it takes the average of what it has planned. And
-- a plan that was made while the table was small would read all of it once it is large, until somebody has analyzed it,
-- or walk along an index from end to end where that has all that is asked for.
SET plan_cache_mode = 'force_generic_plan';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
SET jit = off;

-- Every session of hotrow. synchronous_commit is left as the server has it: "acknowledged means committed" at its level.
SET TimeZone = 'UTC';
SET client_min_messages = 'warning';

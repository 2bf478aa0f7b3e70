-- Which cluster this is: a number that initdb makes, and that copies and standbys share.
SELECT system_identifier AS cluster FROM pg_control_system();

//! The numbered migrations in `sql/migrations`, applied in order and recorded. Two servers that start at once wait for
//! each other. Called by [`super::postgres`].

use postgres::{Client, Error};
use std::fmt::Write;

/// Number, name and statements; the number is the position.
const MIGRATIONS: [(&str, &str); 3] = [
    ("kv_store", include_str!("../../sql/migrations/0001_kv_store.sql")),
    ("expires_at", include_str!("../../sql/migrations/0002_expires_at.sql")),
    ("key_order", include_str!("../../sql/migrations/0003_key_order.sql")),
];

/// The number of the one from which on rows past their time are deleted.
pub const EXPIRES_AT: usize = 2;

/// Any number that nobody else would take for an advisory lock: "hotrow" in ASCII.
const LOCK: i64 = 0x686f_7472_6f77;

/// Applies what is missing, and says how many that was. A server that finds everything applied creates nothing and needs no right to.
/// `begins` is called when there is something: from then on it takes as long as the table is large.
pub fn apply(client: &mut Client, begins: impl FnOnce()) -> Result<usize, Error> {
    // More of them are of a later hotrow.
    if applied(client)? >= MIGRATIONS.len() {
        return Ok(0);
    }
    begins();
    let mut transaction = client.transaction()?;
    // What limits a statement on data, or a wait of somebody's role, is no measure of an index on all rows, nor of a wait
    // for the server that makes it: a migration that is broken off begins anew at every start, and never ends.
    transaction.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")?;
    // Whoever is cut off from here on leaves a backend behind that waits for its next statement, with the lock.
    transaction.batch_execute("SET LOCAL idle_in_transaction_session_timeout = '5s'")?;
    transaction.execute(include_str!("../../sql/no_transaction_timeout.sql"), &[])?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    transaction.execute(include_str!("../../sql/beside_table.sql"), &[])?;
    transaction.batch_execute(include_str!("../../sql/migrations_table.sql"))?;
    let row = transaction.query_one("SELECT coalesce(max(version), 0) FROM hotrow_migrations", &[])?;
    let done = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
    let missing = || MIGRATIONS.iter().enumerate().skip(done).map(|(at, m)| (at as i32 + 1, m));
    for (version, (name, sql)) in missing() {
        transaction.batch_execute(sql)?;
        let record = "INSERT INTO hotrow_migrations (version, name) VALUES ($1, $2)";
        transaction.execute(record, &[&version, name])?;
    }
    transaction.commit()?;
    for (version, (name, _)) in missing() {
        log::info!("applied migration {version} ({name})");
    }
    Ok(MIGRATIONS.len().saturating_sub(done))
}

/// All of them as one script for `psql`, for who does not let a server change a schema.
pub fn script() -> String {
    let mut script =
        "-- Makes the schema of hotrow in an empty database. Apply it with psql -v ON_ERROR_STOP=1 -f.\n\n\
        BEGIN;\n\n"
            .to_owned();
    script.push_str(include_str!("../../sql/migrations_table.sql"));
    for (version, (name, sql)) in MIGRATIONS.iter().enumerate().map(|(at, migration)| (at + 1, migration)) {
        let _ = write!(
            script,
            "\n{sql}INSERT INTO hotrow_migrations (version, name) VALUES ({version}, '{name}');\n"
        );
    }
    script.push_str("\nCOMMIT;\n");
    script
}

/// How many are applied.
pub fn applied(client: &mut Client) -> Result<usize, Error> {
    let row = client.query_one("SELECT to_regclass('hotrow_migrations') IS NOT NULL", &[])?;
    if !row.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM hotrow_migrations", &[])?;
    Ok(usize::try_from(row.get::<_, i32>(0)).unwrap_or(0))
}

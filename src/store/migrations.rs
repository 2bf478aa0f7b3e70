//! The numbered migrations in `sql/migrations`, applied in order and recorded. Two servers that start at once wait for
//! each other. Called by [`super::postgres`].

use postgres::{Client, Error};

/// Number, name and statements; the number is the position.
const MIGRATIONS: [(&str, &str); 1] = [("kv_store", include_str!("../../sql/migrations/0001_kv_store.sql"))];

/// Any number that nobody else would take for an advisory lock: "hotrow" in ASCII.
const LOCK: i64 = 0x686f_7472_6f77;

/// Applies what is missing. A server that finds everything applied creates nothing and needs no right to.
pub fn apply(client: &mut Client) -> Result<(), Error> {
    if applied(client)? == MIGRATIONS.len() {
        return Ok(());
    }
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    transaction.batch_execute(include_str!("../../sql/migrations_table.sql"))?;
    let row = transaction.query_one("SELECT coalesce(max(version), 0) FROM hotrow_migrations", &[])?;
    let done = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
    for (version, (name, sql)) in MIGRATIONS.iter().enumerate().skip(done).map(|(at, m)| (at as i32 + 1, m)) {
        transaction.batch_execute(sql)?;
        let record = "INSERT INTO hotrow_migrations (version, name) VALUES ($1, $2)";
        transaction.execute(record, &[&version, name])?;
        log::info!("applied migration {version} ({name})");
    }
    transaction.commit()
}

fn applied(client: &mut Client) -> Result<usize, Error> {
    let row = client.query_one("SELECT to_regclass('hotrow_migrations') IS NOT NULL", &[])?;
    if !row.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM hotrow_migrations", &[])?;
    Ok(usize::try_from(row.get::<_, i32>(0)).unwrap_or(0))
}

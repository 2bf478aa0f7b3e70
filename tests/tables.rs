//! A table that was there before hotrow, and is not what a migration would have made: it is served if it keeps what it is given,
//! and refused in one line, left as it is, if it does not.

use crate::startup::{refused, run, with_database};
use crate::support::database::Database;
use crate::support::{Server, left_out, wait_until};

/// One that was there before, and is not what a migration would have made.
#[test]
fn a_table_whose_values_are_no_text_is_refused_and_left_as_it_is() {
    let database = Database::new();
    let make = |columns: &str| {
        let table = format!("DROP TABLE IF EXISTS kv_store; CREATE TABLE kv_store ({columns})");
        database.connect().batch_execute(&table).unwrap();
    };
    make("key text PRIMARY KEY, value jsonb");
    let parts = ["kv_store", "the column value", "of type jsonb", "text"];
    refused(&with_database(&database.url), &[], 1, &parts);
    refused(&["migrate", "--database-url", &database.url], &[], 1, &parts);
    make("key uuid PRIMARY KEY, value text");
    refused(&with_database(&database.url), &[], 1, &["the column key", "of type uuid"]);
    // A key that comes back with other blanks at its end is another one.
    let domains = "CREATE DOMAIN short AS varchar(20); CREATE DOMAIN shorter AS short";
    database.connect().batch_execute(domains).unwrap();
    for kind in ["char(10)", "varchar(254)", "short", "shorter", "name"] {
        make(&format!("key {kind} PRIMARY KEY, value text"));
        refused(&with_database(&database.url), &[], 1, &["the column key", "varchar(255), or text"]);
    }
    // Nor may another one be taken for it.
    let collation =
        "CREATE COLLATION alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if database.connect().batch_execute(collation).is_ok() {
        make("key text COLLATE alike PRIMARY KEY, value text");
        refused(
            &with_database(&database.url),
            &[],
            1,
            &["the column key", "collation alike", "deterministic"],
        );
    } else {
        left_out("a key that is like another one", "this PostgreSQL is made without ICU");
    }
    // Without it no statement could say which row is to be replaced.
    for table in [
        "key text, value text",
        "key text, value text, PRIMARY KEY (key, value)",
        "key text UNIQUE DEFERRABLE, value text",
    ] {
        make(table);
        refused(
            &with_database(&database.url),
            &[],
            1,
            &["neither a primary key nor a unique index", "ADD PRIMARY KEY (key)"],
        );
    }
    make("key text PRIMARY KEY, value text");
    refused(&with_database(&database.url), &[], 1, &["kv_store has no column created_at"]);
    database
        .connect()
        .batch_execute("DROP TABLE kv_store; CREATE VIEW kv_store AS SELECT 'a' AS key, 'b' AS value")
        .unwrap();
    refused(&with_database(&database.url), &[], 1, &["no plain table"]);
    let parts = "DROP VIEW kv_store; CREATE TABLE kv_store (key text PRIMARY KEY, value text, created_at timestamp) PARTITION BY HASH (key)";
    database.connect().batch_execute(parts).unwrap();
    refused(&with_database(&database.url), &[], 1, &["no plain table"]);
    // They take what they cannot hold, and say nothing.
    let domain = "CREATE DOMAIN narrow AS varchar(10)";
    database.connect().batch_execute(domain).unwrap();
    for kind in ["name", "char(10)", "varchar(10)", "narrow"] {
        make(&format!("key text PRIMARY KEY, value {kind}, created_at timestamp"));
        refused(&with_database(&database.url), &[], 1, &["the column value", "cuts or pads", "text"]);
    }
    make("key text PRIMARY KEY, value text, created_at timestamp");
    database.connect().batch_execute("CREATE TABLE child () INHERITS (kv_store)").unwrap();
    refused(&with_database(&database.url), &[], 1, &["no plain table", "inherit"]);
    database.connect().batch_execute("DROP TABLE child").unwrap();
    make("key text PRIMARY KEY, content text");
    refused(&with_database(&database.url), &[], 1, &["kv_store has no column value"]);
    let columns =
        "SELECT count(*)::text FROM pg_attribute WHERE attrelid = 'kv_store'::regclass AND attnum > 0";
    assert_eq!(database.text(columns, &[]).as_deref(), Some("2"), "nothing was migrated");
}

#[test]
fn every_kind_of_text_is_accepted() {
    let database = Database::new();
    let kinds = [
        ("varchar", "varchar"),
        ("varchar(255)", "text"),
        ("text", "bpchar"),
        ("words", "words"),
        ("longer", "varchar"),
    ];
    let keys = ["PRIMARY KEY", "UNIQUE", "NOT NULL UNIQUE"];
    let domains = "CREATE DOMAIN words AS text CHECK (VALUE <> 'none'); CREATE DOMAIN long AS varchar(255); CREATE DOMAIN longer AS long";
    database.connect().batch_execute(domains).unwrap();
    for (at, (key, value)) in kinds.into_iter().enumerate() {
        let unique = keys[at % keys.len()];
        let table = format!(
            "DROP TABLE IF EXISTS kv_store, hotrow_migrations;
             CREATE TABLE kv_store (key {key} {unique}, value {value}, created_at timestamp DEFAULT now())"
        );
        database.connect().batch_execute(&table).unwrap();
        let server = Server::start_on(&database, &[]);
        let mut client = server.connect();
        database.execute("INSERT INTO kv_store (key, value) VALUES ('0123456789', 'before')", &[]);
        assert_eq!(client.get("0123456789").text(), "before", "{key}, {value}");
        assert_eq!(client.put("9876543210", "after").status, 201, "{key}, {value}");
        let counted = client.request("POST", "/kv/0000000000?op=incr", "", b"");
        assert_eq!(counted.status, 201, "{key}, {value}: {}", counted.text());
        assert!(server.stderr().contains("the column value of kv_store may be NULL"), "{}", server.stderr());
    }
}

/// The client has to ask for such a type, by the connection that its rows come on.
#[test]
fn a_list_comes_whole_where_the_type_of_values_is_not_built_in() {
    let database = Database::new();
    let table = "CREATE EXTENSION citext;
        CREATE TABLE kv_store (key text PRIMARY KEY, value citext NOT NULL, created_at timestamp DEFAULT now());
        INSERT INTO kv_store (key, value) SELECT lpad(i::text, 4, '0'), repeat('x', 1024) FROM generate_series(1, 300) AS i";
    if let Err(error) = database.connect().batch_execute(table) {
        return left_out("values of the type citext", error);
    }
    let server = Server::start_on(&database, &["--db-readers", "1"]);
    let mut client = server.connect();
    let list = client.request("GET", "/kv?values=true", "Accept: application/x-ndjson\r\n", b"");
    assert_eq!(list.status, 200, "{}", list.text());
    assert_eq!(list.text().matches(&"x".repeat(1024)).count(), 300);
    assert_eq!(client.get("0300").status, 200, "the reader goes on");
    assert_eq!(client.put("0301", "Y").status, 201);
}

/// What takes the place of a row past its time is told from what replaces one by that.
#[test]
fn a_time_of_creation_that_is_none_of_a_moment_is_warned_of() {
    let database = Database::new();
    database.connect().batch_execute("CREATE DOMAIN seconds AS timestamp(0) DEFAULT now(); CREATE DOMAIN moment AS timestamp DEFAULT now()").unwrap();
    for (created_at, is_warned_of) in [
        ("date DEFAULT now()", true),
        ("timestamp(0) DEFAULT now()", true),
        ("timestamptz(3) DEFAULT now()", true),
        ("timestamp", true),
        ("seconds", true),
        ("timestamptz DEFAULT now()", false),
        ("timestamp(6) DEFAULT now()", false),
        ("moment", false),
    ] {
        let table = format!(
            "DROP TABLE IF EXISTS kv_store, hotrow_migrations;
             CREATE TABLE kv_store (key text PRIMARY KEY, value text NOT NULL, created_at {created_at})"
        );
        database.connect().batch_execute(&table).unwrap();
        let server = Server::start_on(&database, &[]);
        let log = server.stderr();
        assert_eq!(log.contains("the column created_at of kv_store"), is_warned_of, "{created_at}: {log}");
        // The sweeper may have been there before: then it is new, whatever the column is.
        if !is_warned_of {
            let mut client = server.connect();
            assert_eq!(client.put("k", "v").status, 201);
            assert_eq!(client.put("k", "v").status, 200);
            database.execute("UPDATE kv_store SET expires_at = now()", &[]);
            assert_eq!(client.put("k", "v").status, 201, "{created_at}");
        }
    }
}

/// It would be made again, empty, in the first schema of the path: all who look for it would find that one.
#[test]
fn a_table_elsewhere_on_the_path_stays_the_one() {
    let database = Database::new();
    let sql = "CREATE SCHEMA hotrow; CREATE TABLE public.kv_store (key text PRIMARY KEY, value text NOT NULL, created_at timestamp);
               INSERT INTO public.kv_store VALUES ('there', 'before')";
    database.connect().batch_execute(sql).unwrap();
    for _ in 0..2 {
        let server = Server::start_on(&database, &[]);
        let mut client = server.connect();
        assert_eq!(client.get("there").text(), "before");
        assert!(client.put("there", "before").status == 200);
        let tables =
            "SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY tablename) FROM pg_tables
                      WHERE tablename IN ('kv_store', 'hotrow_migrations')";
        assert_eq!(database.text(tables, &[]).unwrap(), "public.hotrow_migrations public.kv_store");
    }
}

/// It may be the end of somebody's subscription.
#[test]
fn rows_are_not_deleted_by_a_column_that_hotrow_has_not_made_unless_that_is_said() {
    let database = Database::new();
    let table = "CREATE TABLE kv_store (key text PRIMARY KEY, value text NOT NULL, created_at timestamp DEFAULT now(), expires_at timestamptz);
        INSERT INTO kv_store (key, value, expires_at) VALUES ('over', 'v', now() - interval '1 day'), ('on', 'v', now() + interval '1 day')";
    database.connect().batch_execute(table).unwrap();
    // Nor is it hotrow's for what has the name of its index.
    for of_that_name in ["CREATE TABLE kv_store_expires_at ()", "DROP TABLE kv_store_expires_at"] {
        database.connect().batch_execute(of_that_name).unwrap();
        let parts = ["expires_at that hotrow has not made", "hotrow migrate"];
        refused(&with_database(&database.url), &[], 1, &parts);
    }
    assert_eq!(database.value("over").as_deref(), Some("v"));
    assert_eq!(run(&["migrate", "--database-url", &database.url], &[]).0, Some(0));
    let server = Server::start_on(&database, &[]);
    assert_eq!(server.connect().get("on").text(), "v");
    wait_until("it is swept", || database.value("over").is_none());
    // Whoever has dropped the index since has not made the column.
    drop(server);
    database.connect().batch_execute("DROP INDEX kv_store_expires_at").unwrap();
    drop(Server::start_on(&database, &[]));
}

/// Requests would all be refused, and the server ready.
#[test]
fn a_table_that_takes_no_statement_is_refused() {
    let database = Database::new();
    for (columns, parts) in [
        ("created_at timestamp, expires_at integer", ["the column expires_at", "integer"]),
        ("created_at timestamp, expires_at date", ["the column expires_at", "date"]),
        // It would not keep the offset of a time that is loaded.
        ("created_at timestamp, expires_at timestamp", ["the column expires_at", "timestamptz"]),
        ("created_at timestamp, expires_at timestamptz(0)", ["the column expires_at", "microseconds"]),
        ("created_at timestamp, expires_at timestamptz NOT NULL", ["the column expires_at", "NULL"]),
        ("created_at bigint", ["does not take a statement", "bigint"]),
    ] {
        let table = format!(
            "DROP TABLE IF EXISTS kv_store, hotrow_migrations;
             CREATE TABLE kv_store (key text PRIMARY KEY, value text NOT NULL, {columns})"
        );
        database.connect().batch_execute(&table).unwrap();
        refused(&with_database(&database.url), &[], 1, &parts);
    }
    let again = "DROP TABLE kv_store, hotrow_migrations";
    database.connect().batch_execute(again).unwrap();
    drop(Server::start_on(&database, &[]));
    database.connect().batch_execute("DROP TABLE kv_store").unwrap();
    refused(&with_database(&database.url), &[], 1, &["does not exist", "DROP TABLE hotrow_migrations"]);
    database.connect().batch_execute("DROP TABLE hotrow_migrations").unwrap();
    let server = Server::start_on(&database, &[]);
    database
        .connect()
        .batch_execute("ALTER TABLE kv_store SET UNLOGGED, ADD extra integer NOT NULL")
        .unwrap();
    drop(server);
    let server = Server::start_on(&database, &[]);
    assert!(server.stderr().contains("kv_store is UNLOGGED"), "{}", server.stderr());
    assert!(server.stderr().contains("the column extra of kv_store may not be NULL"), "{}", server.stderr());
}

//! How PostgreSQL goes about hotrow's statements: by an index, whatever it thinks of the table.

use crate::support::Server;

/// Every statement that looks for rows of the table, by a name.
const STATEMENTS: [(&str, &str); 11] = [
    ("read", include_str!("../sql/read.sql")),
    ("look", include_str!("../sql/look.sql")),
    ("page", include_str!("../sql/page.sql")),
    ("hold", include_str!("../sql/hold.sql")),
    ("change", include_str!("../sql/change.sql")),
    ("delete", include_str!("../sql/delete.sql")),
    ("set_and_delete", include_str!("../sql/set_and_delete.sql")),
    ("locked", include_str!("../sql/locked.sql")),
    ("expired", include_str!("../sql/expired.sql")),
    ("expired_behind", include_str!("../sql/expired_behind.sql")),
    ("sweep", include_str!("../sql/sweep.sql")),
];

/// The plan that a session of hotrow's would use for each of them.
fn plans(sql: &mut postgres::Client) -> Vec<(&'static str, String)> {
    let plan_of = |(name, statement): (&'static str, &str)| {
        sql.batch_execute(&format!("PREPARE {name} AS {statement}")).unwrap();
        let count = (1..).take_while(|n| statement.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; count].join(", ");
        let lines = sql.query(&format!("EXPLAIN EXECUTE {name} ({nulls})"), &[]).unwrap();
        sql.batch_execute(&format!("DEALLOCATE {name}")).unwrap();
        (name, lines.iter().map(|line| line.get::<_, String>(0)).collect::<Vec<_>>().join("\n"))
    };
    STATEMENTS.map(plan_of).to_vec()
}

#[test]
fn every_statement_goes_by_an_index_whatever_the_server_thinks_of_the_table() {
    let server = Server::start(&[]);
    let mut sql = server.database().connect();
    sql.batch_execute(include_str!("../sql/session.sql")).unwrap();
    let mut seen = Vec::new();
    // Empty and never looked at; known to be empty; a single row; then full, as yet unknown to the planner; then known.
    for change in [
        "",
        "VACUUM ANALYZE kv_store",
        "INSERT INTO kv_store (key, value) VALUES ('one', 'v')",
        "ANALYZE kv_store",
        "INSERT INTO kv_store (key, value, expires_at)
         SELECT 'key:' || i, 'v', CASE WHEN i % 2 = 0 THEN now() + interval '1 day' END FROM generate_series(1, 20000) AS i",
        "ANALYZE kv_store",
    ] {
        sql.batch_execute(change).unwrap();
        for (name, plan) in plans(&mut sql) {
            assert!(plan.contains("using kv_store_"), "{name}:\n{plan}");
            for way in ["Seq Scan", "Bitmap", "JIT"] {
                assert!(!plan.contains(way), "{name} after {change:?}:\n{plan}");
            }
            // Each by what is looked for, and none by a walk from end to end.
            let (looks, conditions) = (plan.matches("using kv_store_").count(), plan.matches("Index Cond").count());
            assert_eq!(looks, conditions, "{name} after {change:?}:\n{plan}");
            // What looks for keys does not go through all that are past their time.
            let by_end = plan.contains("kv_store_expires_at");
            assert_eq!(by_end, name.starts_with("expired"), "{name} after {change:?}:\n{plan}");
            seen.push((name, plan));
        }
    }
    assert_eq!(seen.len(), 6 * STATEMENTS.len());
}

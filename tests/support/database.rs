//! One PostgreSQL for all tests of a program, and a database of its own for each test.
//!
//! It runs under a shell that waits for the end of its input: the pipe's other end is in this process, so that
//! however this process ends, by a panic or by `kill -9` too, PostgreSQL is stopped and its folder removed.

use super::DEADLINE;
use hotrow::store::managed::binaries::{self, Binaries};
use postgres::NoTls;
use postgres::types::ToSql;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// `$1`: folder of the programs. `$2`: our folder. The rest: settings.
const GUARD: &str = r#"
    bin=$1 dir=$2; shift 2
    "$bin" -D "$dir/cluster" "$@" >"$dir/log" 2>&1 &
    cat >/dev/null
    kill -QUIT $!
    wait $!
    rm -rf "$dir"
"#;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The PostgreSQL of this program.
struct Cluster {
    dir: PathBuf,
    /// Holds the pipe that keeps it alive.
    _guard: Child,
}

/// The zone of the tests' clusters, far from hotrow's sessions, which set their own: a time that is not read in UTC is hours off.
pub const ZONE: &str = "Asia/Kolkata";

/// What the sweeper waits with. It comes when it likes, and nobody waits for it.
const OF_THE_SWEEPER: [&str; 3] = [
    include_str!("../../sql/sweep.sql"),
    include_str!("../../sql/expired.sql"),
    include_str!("../../sql/expired_behind.sql"),
];

/// How many statements of hotrow's workers wait in the database of `sql`, of those of which `why` holds. The sweeper's do
/// not count. Of a long statement PostgreSQL tells how it begins.
fn waiting(sql: &mut postgres::Client, why: &str) -> Result<i64, postgres::Error> {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'hotrow/%'
        AND NOT EXISTS (SELECT FROM unnest($1::text[]) AS own (text) WHERE starts_with(own.text, query)) AND ";
    Ok(sql.query_one(&format!("{waiting}{why}"), &[&&OF_THE_SWEEPER[..]])?.get(0))
}

/// How many of them wait for a lock: they were sent.
pub fn waiting_for_locks(sql: &mut postgres::Client) -> Result<i64, postgres::Error> {
    waiting(sql, "wait_event_type = 'Lock'")
}

/// True once one of them waits for a lock or has met one: then its worker has asked which rows are locked, and that is what
/// PostgreSQL says of its session until the next statement.
pub fn has_met_a_lock(sql: &mut postgres::Client) -> bool {
    waiting(sql, "(wait_event_type = 'Lock' OR query LIKE '%FOR NO KEY UPDATE SKIP LOCKED%')").unwrap() > 0
}

/// The version of its server as a number: 150000 and more is PostgreSQL 15.
pub fn server_version() -> i32 {
    let mut client = postgres::Client::connect(&CLUSTER.url("postgres"), NoTls).expect("PostgreSQL runs");
    let version = "SELECT current_setting('server_version_num')::integer";
    client.query_one(version, &[]).expect("the statement is right").get(0)
}

/// Sessions for all tests that run at a time: one for each processor, of which some have several servers with five sessions each.
fn most_sessions() -> usize {
    let tests = std::thread::available_parallelism().map_or(1, usize::from);
    (tests * 20).max(400)
}

/// An empty database of one test. Clones are the same database, and the last of them removes it.
#[derive(Clone, Debug)]
pub struct Database {
    /// How to connect to it: what `--database-url` takes.
    pub url: String,
    _of_this_test: Option<Arc<OfThisTest>>,
}

/// A database of [`CLUSTER`]: the tests of a program have hundreds of them, of several MiB each.
#[derive(Debug)]
struct OfThisTest {
    name: String,
}

impl Drop for OfThisTest {
    fn drop(&mut self) {
        // All are removed with the cluster in the end; and a test that has failed has something else to say.
        if let Ok(mut client) = postgres::Client::connect(&CLUSTER.url("postgres"), NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

impl Cluster {
    fn start() -> Cluster {
        let owner = binaries::owner().expect("somebody can run PostgreSQL");
        let programs = Binaries::find(Path::new("")).expect("PostgreSQL's server programs are installed");
        let command = |program: &Path| {
            let mut command = Command::new(program);
            if let Some(owner) = &owner {
                command.uid(owner.uid).gid(owner.gid);
            }
            command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
            command
        };
        // Kept here and removed by the guard: this process may end in ways that run no destructor.
        let dir =
            tempfile::Builder::new().prefix("hotrow-test-").tempdir().expect("a temporary folder").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
        if let Some(owner) = &owner {
            chown(&dir, Some(owner.uid), Some(owner.gid)).expect("root may give it away");
        }
        let output = command(&programs.path("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=hotrow", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(dir.join("cluster"))
            .output()
            .expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let guard = command(Path::new("/bin/sh"))
            .args(["-c", GUARD, "guard"])
            .arg(programs.path("postgres"))
            .arg(&dir)
            .args(["-c", "listen_addresses=", "-c", "autovacuum=off"])
            .args(["-c", &format!("max_connections={}", most_sessions())])
            // What a test of durability needs, this cluster has not: the machine is not going to lose its power.
            .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
            .args(["-c", &format!("timezone={ZONE}")])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", dir.display()))
            .stdin(Stdio::piped())
            // Ctrl-C on the terminal is for the tests; the guard follows by itself.
            .process_group(0)
            .spawn()
            .expect("a shell runs");
        let cluster = Cluster { dir, _guard: guard };
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = postgres::Client::connect(&cluster.url("postgres"), NoTls) {
            let log = fs::read_to_string(cluster.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not get ready: {error}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        cluster
    }

    fn url(&self, database: &str) -> String {
        format!("host='{}' user=hotrow dbname={database}", self.dir.display())
    }
}

impl Database {
    /// A fresh, empty one.
    pub fn new() -> Database {
        Database::new_with("")
    }

    /// The same with more to say to CREATE DATABASE.
    pub fn new_with(options: &str) -> Database {
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut client = postgres::Client::connect(&CLUSTER.url("postgres"), NoTls).expect("PostgreSQL runs");
        client
            .batch_execute(&format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0 {options}"))
            .expect("a database can be made");
        Database { url: CLUSTER.url(&name), _of_this_test: Some(Arc::new(OfThisTest { name })) }
    }

    /// One that is there already, and stays.
    pub fn at(url: String) -> Database {
        Database { url, _of_this_test: None }
    }

    /// A session.
    pub fn connect(&self) -> postgres::Client {
        postgres::Client::connect(&self.url, NoTls).expect("PostgreSQL runs")
    }

    /// Runs one statement in a session of its own.
    pub fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) {
        self.connect().execute(sql, parameters).expect("the statement is right");
    }

    /// The first column of the first row, as text; `None` where there is no row.
    pub fn text(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<String> {
        self.connect().query_opt(sql, parameters).expect("the statement is right").map(|row| row.get(0))
    }

    /// The value of a key, as SQL sees it.
    pub fn value(&self, key: &str) -> Option<String> {
        self.text("SELECT value FROM kv_store WHERE key = $1", &[&key])
    }

    /// Makes every write of a row wait from now on. Not for a lock, which hotrow goes around: for nothing that it could see.
    /// A statement that finds no row goes on: a DELETE of none, and the sweeper.
    pub fn hold_writes(&self) -> HeldWrites {
        let mut sql = self.connect();
        let hold = "CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                WHILE NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.005); END LOOP;
                RETURN COALESCE(NEW, OLD);
            END $$;
            DROP TRIGGER IF EXISTS hold ON kv_store;
            CREATE TRIGGER hold BEFORE INSERT OR UPDATE OR DELETE ON kv_store
                FOR EACH ROW EXECUTE FUNCTION hold();
            SELECT pg_advisory_lock(1)";
        sql.batch_execute(hold).expect("it can be held");
        HeldWrites { sql, observer: self.connect() }
    }

    /// Stores a row past the server.
    pub fn insert(&self, key: &str, value: &str) {
        self.execute("INSERT INTO kv_store (key, value) VALUES ($1, $2)", &[&key, &value]);
    }
}

/// Writes wait while there is one of these.
pub struct HeldWrites {
    sql: postgres::Client,
    observer: postgres::Client,
}

impl HeldWrites {
    /// How many statements of hotrow wait so: they were sent.
    pub fn waiting(&mut self) -> i64 {
        waiting(&mut self.observer, "wait_event = 'PgSleep'").expect("PostgreSQL runs")
    }

    /// Lets them go on.
    pub fn release(mut self) {
        self.sql.batch_execute("SELECT pg_advisory_unlock_all()").expect("PostgreSQL runs");
    }
}

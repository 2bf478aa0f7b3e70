//! What an engineer would write today for the same service: axum, tokio-postgres with deadpool, and a moka cache. The
//! same routes, the same table, the same fields in its answers. It is no strawman: statements are prepared once a
//! connection, misses of one key are joined, values are shared and not copied.
//!
//! It promises less than hotrow: a read that a write overtook may put the older row back into the cache, and no row
//! expires.
//!
//! Arguments: the port, how to connect to PostgreSQL, threads, connections to PostgreSQL, bytes of cache.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use moka::future::Cache;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_postgres::NoTls;

const READ: &str = "SELECT value, xmin::text FROM kv_store WHERE key = $1";
const WRITE: &str = "INSERT INTO kv_store (key, value) VALUES ($1, $2) \
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value RETURNING xmin::text, (xmax = 0)";
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

#[derive(Clone)]
struct Entry {
    value: Bytes,
    etag: Bytes,
}

#[derive(Clone)]
struct App {
    pool: Pool,
    /// None is a key that is not in the table.
    cache: Cache<String, Option<Entry>>,
}

/// Anything that went wrong with the database.
struct Failure(String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0).into_response()
    }
}

fn failure(error: impl ToString) -> Failure {
    Failure(error.to_string())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, database, threads, connections, cache_bytes] = &arguments[..] else {
        eprintln!("usage: axum-stack PORT DATABASE THREADS CONNECTIONS CACHE_BYTES");
        std::process::exit(2);
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(number(threads))
        .enable_all()
        .build()
        .expect("threads can be started");
    let served = runtime.block_on(serve(port, database, number(connections), number(cache_bytes)));
    if let Err(error) = served {
        eprintln!("axum-stack: {error}");
        std::process::exit(1);
    }
}

async fn serve(
    port: &str,
    database: &str,
    connections: usize,
    cache_bytes: usize,
) -> Result<(), Box<dyn Error>> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(database.parse()?, NoTls, config);
    let pool = Pool::builder(manager).max_size(connections).build()?;
    let cache = Cache::builder()
        .max_capacity(cache_bytes as u64)
        .weigher(|key: &String, entry: &Option<Entry>| {
            let value = entry.as_ref().map_or(0, |entry| entry.value.len() + entry.etag.len());
            u32::try_from(key.len() + value + 100).unwrap_or(u32::MAX)
        })
        .build();
    let app = Router::new().route("/kv/{key}", get(read).put(write)).with_state(App { pool, cache });
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

async fn read(State(app): State<App>, Path(key): Path<String>) -> Result<Response, Failure> {
    let missed = AtomicBool::new(false);
    let entry = app
        .cache
        .try_get_with_by_ref(&key, async {
            missed.store(true, Ordering::Relaxed);
            let client = client(&app.pool).await?;
            let statement = client.prepare_cached(READ).await.map_err(|e| e.to_string())?;
            let row = client.query_opt(&statement, &[&key]).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(
                row.map(|row| Entry { value: Bytes::from(row.get::<_, String>(0)), etag: etag(row.get(1)) }),
            )
        })
        .await
        .map_err(failure)?;
    let status = if missed.into_inner() { "axum; fwd=miss" } else { "axum; hit" };
    Ok(match entry {
        Some(entry) => answer(StatusCode::OK, status, entry),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn write(State(app): State<App>, Path(key): Path<String>, value: String) -> Result<Response, Failure> {
    let client = client(&app.pool).await.map_err(failure)?;
    let statement = client.prepare_cached(WRITE).await.map_err(failure)?;
    let row = client.query_one(&statement, &[&key, &value]).await.map_err(failure)?;
    let entry = Entry { value: Bytes::from(value), etag: etag(row.get(0)) };
    app.cache.insert(key, Some(entry.clone())).await;
    let status = if row.get(1) { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, "axum; fwd=request", entry))
}

async fn client(pool: &Pool) -> Result<Object, String> {
    pool.get().await.map_err(|e| e.to_string())
}

fn etag(version: String) -> Bytes {
    Bytes::from(format!("\"{version}\""))
}

fn answer(status: StatusCode, cache_status: &'static str, entry: Entry) -> Response {
    let etag = axum::http::HeaderValue::from_maybe_shared(entry.etag).expect("digits in quotes");
    let kind = axum::http::HeaderValue::from_static("text/plain; charset=utf-8");
    let cache = axum::http::HeaderValue::from_static(cache_status);
    (status, [(CONTENT_TYPE, kind), (CACHE_STATUS, cache), (ETAG, etag)], entry.value).into_response()
}

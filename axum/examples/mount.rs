//! The routes in an app that has routes, middleware and state of its own.

use axum::{Router, extract::State, middleware, response::Response, routing::get};
use ringlog::ChangeLog;
use ringlog_axum::{MemoryStore, SyncRoutes, Tombstones};
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Greeting(&'static str);

/// Serves the app until `shutdown` completes.
pub(crate) async fn serve(
    listener: TcpListener,
    shutdown: impl Future + Send + 'static,
) -> Result<(), Error> {
    let (store, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default())?;
    let sync = SyncRoutes::new(log, store).start()?;
    let app = Router::new()
        .route("/", get(async |State(Greeting(text)): State<Greeting>| text))
        .nest("/sync", sync.router())
        .layer(middleware::map_response(async |response: Response| ([("x-app", "mine")], response)))
        .with_state(Greeting("hello"));
    let stopping = sync.clone();
    let shutdown = async move {
        shutdown.await;
        stopping.stop();
    };
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await?;
    Ok(sync.stopped().await?)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:7070").await?;
    println!("try http://{}/sync/pull", listener.local_addr()?);
    serve(listener, tokio::signal::ctrl_c()).await
}

//! `GET /api/admin/backup`: one moment of the store, as a backup.

use crate::app::App;
use crate::store::Snapshot;
use crate::store::disk::write_backup;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ringlog_axum::error::ApiError;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The body's pieces, and how many of them wait for the client.
const PIECE: usize = 64 << 10;
const WAITING: usize = 4;

pub(super) async fn backup(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let Some(disk) = &app.disk else {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "NO_STORE",
            "the server runs with --memory: there is no store",
        ));
    };
    let permit = Arc::clone(&disk.backups).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::unavailable("BUSY", "another backup is being taken"))?;
    let disk = Arc::clone(disk);
    let moment = tokio::task::spawn_blocking(move || disk.moment()).await;
    let moment = moment.map_err(|error| ApiError::internal(&error))?;
    let moment = moment.map_err(|error| ApiError::internal(&error))?;
    let name = format!("attachment; filename=\"ringlog-{}.backup.gz\"", moment.last_seq());
    let (pieces, sent) = mpsc::channel(WAITING);
    let stopping = app.sync.stopping.clone();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let out = BufWriter::with_capacity(PIECE, Pieces { pieces: pieces.clone() });
        // Without its last lines it is known to be cut.
        if let Err(error) = write_backup(&moment, out) {
            tracing::warn!(%error, "a backup broke off");
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let body = stream::unfold(sent, move |mut sent| {
        let stopping = stopping.clone();
        async move {
            let piece = tokio::select! {
                piece = sent.recv() => piece?,
                () = stopping.cancelled() => Err(io::Error::other("the server is stopping")),
            };
            Some((piece, sent))
        }
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// Sends what is written to it; waits while the client takes nothing.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.pieces.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

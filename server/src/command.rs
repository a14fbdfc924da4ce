//! What the program does besides serving: backups.

use crate::store::StoreError;
use crate::store::disk::{self, BackupSummary};
#[cfg(feature = "cluster")]
use crate::{cluster, config::Cluster};
use axum::http::{StatusCode, Uri, header};
#[cfg(feature = "cluster")]
use clap::Args;
use clap::Subcommand;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a server may send nothing while a backup is taken from it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest message of a refusal that is repeated.
const MAX_MESSAGE: usize = 4096;

/// What people paste. The README has the same line.
const BACKUP_EXAMPLES: &str = r"Every night, in a crontab (% is written \% there):
  17 3 * * *  /usr/local/bin/ringlog-server backup /var/lib/ringlog --to /backup/ringlog-$(date +\%F).backup && find /backup -name 'ringlog-*.backup*' -mtime +14 -delete";

/// What can be done instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Consistent copy of a store, also of a running server's, without stopping pushes
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup {
        /// Data folder, or address of a server (http://HOST:PORT, with its write token)
        #[arg(value_name = "DIR|URL")]
        from: String,
        /// File to be written; it must not exist, and is complete once it has its name
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Bearer token for a server
        #[arg(long, env = "RINGLOG_WRITE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
        write_token: Option<String>,
    },
    /// New store from a backup; clients load their rows anew
    Restore {
        /// Backup
        file: PathBuf,
        /// Data folder without a store; made if missing
        #[arg(long, env = "RINGLOG_DATA", value_name = "DIR", default_value = "ringlog-data")]
        data: PathBuf,
    },
    /// Check of a backup, from its first byte to its last
    VerifyBackup {
        /// Backup
        file: PathBuf,
    },
    /// What is done once about the stream of a cluster
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Cluster(ClusterCommand),
}

/// What can be done about the stream of a cluster.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Another incarnation of a log whose stream was rolled back; clients load their rows anew
    Reset {
        /// Which log.
        #[command(flatten)]
        log: LogArgs,
    },
    /// A message that is no frame of any version is passed over by all nodes
    Skip {
        /// Which log.
        #[command(flatten)]
        log: LogArgs,
        /// Position of the message, as the nodes name it
        #[arg(long)]
        position: u64,
    },
}

/// Which log of which cluster.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Addresses of NATS servers whose JetStream keeps the log
    #[arg(long, env = "RINGLOG_CLUSTER", value_name = "URL", value_delimiter = ',', required = true)]
    cluster: Vec<String>,

    /// Name of the log in the cluster
    #[arg(long, env = "RINGLOG_LOG", value_name = "NAME")]
    log: String,

    /// File with the credentials of a NATS user
    #[arg(long, env = "RINGLOG_CLUSTER_CREDS", value_name = "FILE")]
    cluster_creds: Option<PathBuf>,

    /// File with the certificate authorities of NATS servers
    #[arg(long, env = "RINGLOG_CLUSTER_CA", value_name = "FILE")]
    cluster_ca: Option<PathBuf>,
}

#[cfg(feature = "cluster")]
impl LogArgs {
    fn cluster(self) -> Cluster {
        let mut cluster = Cluster::new(self.cluster, self.log);
        (cluster.creds, cluster.ca) = (self.cluster_creds, self.cluster_ca);
        cluster
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A store or a file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server cannot be asked, or refuses.
    #[error("{url}: {reason}")]
    Server {
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The stream of a cluster cannot be used.
    #[cfg(feature = "cluster")]
    #[error("{0}")]
    Cluster(String),
}

impl Command {
    /// Does it, and answers with what there is to say. Called on a runtime.
    ///
    /// # Errors
    /// [`CommandError`] says what could not be used. Nothing is left half done.
    pub async fn run(self) -> Result<String, CommandError> {
        match self {
            Self::Backup { from, to, write_token } => {
                let summary = if from.contains("://") {
                    fetch(&from, write_token.as_deref(), &to).await?
                } else {
                    disk::backup_folder(Path::new(&from), &to)?
                };
                Ok(format!("{} holds {}", to.display(), described(summary)))
            }
            Self::Restore { file, data } => {
                let summary = disk::restore(&file, &data)?;
                Ok(format!(
                    "{} holds {}, as a new log: clients load their rows anew",
                    data.display(),
                    described(summary)
                ))
            }
            Self::VerifyBackup { file } => {
                let summary = disk::verify_backup(&file)?;
                Ok(format!("{} is whole and holds {}", file.display(), described(summary)))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(command) => match command {
                ClusterCommand::Reset { log } => cluster::reset(&log.cluster()).await,
                ClusterCommand::Skip { log, position } => cluster::skip(&log.cluster(), position).await,
            }
            .map_err(CommandError::Cluster),
        }
    }
}

fn described(summary: BackupSummary) -> String {
    let BackupSummary { last_seq, rows, events, op_ids, .. } = summary;
    format!("{rows} rows, {events} events and {op_ids} op ids up to seq {last_seq}")
}

/// Takes a backup from a server.
async fn fetch(server: &str, token: Option<&str>, to: &Path) -> Result<BackupSummary, CommandError> {
    let url = format!("{}/api/admin/backup", server.trim_end_matches('/'));
    let failed = |reason: String| CommandError::Server { url: url.clone(), reason };
    let response = ask(&url, token).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(failed(refusal(response).await));
    }
    let mut body = response.into_body();
    let mut broken = None;
    let written = tokio::task::block_in_place(|| {
        disk::write_file(to, |file, partial| {
            let copied = tokio::runtime::Handle::current().block_on(copy(&mut body, file));
            copied.map_err(|error| {
                let source = std::io::Error::other(error.to_string());
                broken = Some(error);
                StoreError::Io { path: partial.to_owned(), source }
            })
        })
    });
    match broken {
        Some(CopyError::Server(reason)) => Err(failed(reason)),
        Some(CopyError::File(_)) | None => Ok(written?),
    }
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{0}")]
    Server(String),
    #[error("{0}")]
    File(std::io::Error),
}

async fn copy(body: &mut Incoming, mut file: &File) -> Result<(), CopyError> {
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let frame = frame.map_err(|_| CopyError::Server(format!("nothing came for {PATIENCE:?}")))?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| CopyError::Server(format!("the backup broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).map_err(CopyError::File)?;
        }
    }
}

async fn ask(url: &str, token: Option<&str>) -> Result<Response<Incoming>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("no address: {error}"))?;
    if uri.scheme_str() != Some("http") {
        return Err(
            "only http:// is spoken here: take it by `curl -f -o FILE` where there is TLS in front, and \
                    check it by `ringlog-server verify-backup FILE`"
                .into(),
        );
    }
    let authority = uri.authority().ok_or("no host in the address")?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| "it does not answer")?.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Its errors come out of the body.
    tokio::spawn(connection);
    let mut request = Request::get(uri.path()).header(header::HOST, authority.as_str());
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    response.map_err(|_| "it does not answer")?.map_err(|error| error.to_string())
}

/// What a server says when it refuses.
async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_MESSAGE).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    match json["error"]["message"].as_str() {
        Some(message) => format!("{status}: {message}"),
        None => status.to_string(),
    }
}

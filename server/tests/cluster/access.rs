//! Servers that take no client without TLS and credentials, and users with as few rights as a node
//! can have.

use super::common::cluster::{Cluster, LARGE, SYNC, attempt, metric, same_everywhere};
use super::common::nats::NatsCluster;
use super::{HANG, one, push_rows};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use itertools::Itertools as _;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a node of the log `test` publishes; `server/src/cluster/nats.rs` says what for.
const PUBLISH: [&str; 13] = [
    "ringlog.test.frames",
    "ringlog.test.nodes",
    "$JS.API.STREAM.INFO.RINGLOG_test",
    "$JS.API.STREAM.CREATE.RINGLOG_test",
    "$JS.API.STREAM.PURGE.RINGLOG_test",
    "$JS.API.DIRECT.GET.RINGLOG_test",
    "$JS.API.STREAM.INFO.OBJ_RINGLOG_test",
    "$JS.API.STREAM.CREATE.OBJ_RINGLOG_test",
    "$JS.API.STREAM.PURGE.OBJ_RINGLOG_test",
    "$JS.API.DIRECT.GET.OBJ_RINGLOG_test.>",
    "$JS.API.CONSUMER.CREATE.OBJ_RINGLOG_test",
    "$JS.FC.OBJ_RINGLOG_test.>",
    "$O.RINGLOG_test.>",
];

/// What it subscribes to.
const SUBSCRIBE: [&str; 3] = ["ringlog.test.live", "ringlog.test.nodes", "_INBOX.>"];

/// A token that says what a key may do, as NATS reads it.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let part = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let head = part(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": nats
    });
    let text = format!("{head}.{}", part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

/// A file with credentials of a user that has these rights in the account.
fn credentials(folder: &Path, name: &str, account: &KeyPair, rights: (&[&str], &[&str])) -> PathBuf {
    let user = KeyPair::new_user();
    let token = jwt(
        account,
        &user.public_key(),
        name,
        &json!({
            "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
            "pub": {"allow": rights.0}, "sub": {"allow": rights.1}
        }),
    );
    let file = folder.join(name);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Lines of the servers' configuration: an operator, and an account that may use JetStream.
fn operator(account: &KeyPair) -> String {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let itself = json!({"type": "operator", "version": 2, "system_account": system.public_key()});
    let account_of = |key: &KeyPair, name: &str, bytes: i64| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": 0, "disk_storage": bytes, "streams": bytes, "consumer": bytes
        });
        let nats = json!({"type": "account", "version": 2, "limits": limits});
        format!("{}: {}", key.public_key(), jwt(&operator, &key.public_key(), name, &nats))
    };
    format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}\n{}\n}}\n",
        jwt(&operator, &operator.public_key(), "operator", &itself),
        system.public_key(),
        account_of(account, "logs", -1),
        account_of(&system, "system", 0),
    )
}

/// An authority; and lines of the servers' configuration, with a certificate that it has given.
fn tls(folder: &Path) -> (PathBuf, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".into(), "127.0.0.1".into()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let [ca, cert_file, key_file] = ["ca.pem", "server.pem", "server.key"].map(|name| folder.join(name));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let lines = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", timeout: 10 }}\n",
        cert_file.display(),
        key_file.display()
    );
    (ca, lines)
}

#[test]
fn the_guide_has_all_subjects_of_a_node() {
    let guide = include_str!("../../../docs/cluster.md");
    let (_, configuration) = guide.split_once("authorization {").unwrap();
    let (configuration, _) = configuration.split_once("```").unwrap();
    for subject in PUBLISH.iter().chain(&SUBSCRIBE).map(|subject| subject.replace("test", "orders")) {
        assert!(guide.contains(&format!("`{subject}`")), "no `{subject}`");
        assert!(configuration.contains(&format!("\"{subject}\"")), "no {subject} in the configuration");
    }
    let allowed = configuration.matches('"').count() / 2;
    assert_eq!(allowed, PUBLISH.len() + SUBSCRIBE.len(), "the configuration allows no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_works_over_tls_with_the_fewest_permissions() {
    let (folder, account) = (tempfile::tempdir().unwrap(), KeyPair::new_account());
    let (ca, lines) = tls(folder.path());
    let lines = format!("{LARGE}\n{lines}{}", operator(&account));
    let Some(nats) = NatsCluster::start_with(3, SYNC, &lines) else { return };
    let creds = credentials(folder.path(), "node.creds", &account, (&PUBLISH, &SUBSCRIBE));
    let args = format!("--cluster-ca {} --cluster-creds {}", ca.display(), creds.display());
    let cluster = Cluster::of(&Arc::new(nats), "test", &format!("{args} --cluster-max-bytes 2000000"));
    assert!(cluster.start_nodes(), "{}", cluster.said());

    // Until there are two snapshots: the stream loses its beginning.
    let (client, urls, start) = (reqwest::Client::new(), cluster.urls(), Instant::now());
    let (mut pushed, mut positions) = (0, std::collections::BTreeSet::new());
    while positions.len() < 3 {
        assert!(start.elapsed() < HANG, "snapshots at {positions:?} only: {}", cluster.said());
        let mut request = one(&pushed.to_string());
        request["changes"][0]["data"] = json!("x".repeat(6000));
        let answer = attempt(&client, &urls[pushed % 3], &request, HANG).await;
        answer.unwrap_or_else(|why| panic!("{why}: {}", cluster.said()));
        pushed += 1;
        positions.insert(metric(&urls[pushed % 3], "cluster_snapshot_position").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cluster.nodes[0].stop());
    std::fs::remove_dir_all(cluster.data(0)).unwrap();
    assert!(cluster.nodes[0].start(), "{}", cluster.nodes[0].said());
    assert!(cluster.nodes[0].said().contains("started with a snapshot"), "{}", cluster.nodes[0].said());
    assert_eq!(same_everywhere(&urls).await.0.len(), pushed);
    let said = cluster.said().to_lowercase();
    assert!(!said.contains("permissions violation"), "{said}");

    // Those of another account, another authority, and none.
    let stranger = credentials(folder.path(), "other.creds", &KeyPair::new_account(), (&[], &[]));
    let other = tempfile::tempdir().unwrap();
    let (other_ca, _) = tls(other.path());
    for (ca, creds, why) in [
        (&ca, &stranger, "authorization violation"),
        (&other_ca, &creds, "invalid peer certificate"),
        (&creds, &creds, "invalid peer certificate"),
    ] {
        let node =
            cluster.node(&format!("--cluster-ca {} --cluster-creds {}", ca.display(), creds.display()));
        assert!(!node.start());
        let said = node.said();
        assert!(said.contains("cannot connect to nats://127.0.0.1") && said.contains(why), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_and_a_password_may_stand_in_the_address_and_are_not_shown() {
    let quoted = |subjects: &[&str]| subjects.iter().map(|subject| format!("{subject:?}")).join(", ");
    let lines = format!(
        "{LARGE}\nauthorization {{ users: [{{ user: node, password: \"s3cret\", permissions: {{\n\
         publish: {{ allow: [{}] }}\nsubscribe: {{ allow: [{}] }} }} }}] }}",
        quoted(&PUBLISH),
        quoted(&SUBSCRIBE)
    );
    let Some(nats) = NatsCluster::start_with(3, SYNC, &lines) else { return };
    let urls = |user: &str| nats.urls().join(",").replace("nats://", &format!("nats://{user}@"));
    let (right, wrong) = (urls("node:s3cret"), urls("node:s3creT"));
    let folder = tempfile::tempdir().unwrap();
    let node = |name: &str, urls: &str| {
        let args = format!("--cluster {urls} --log test --cluster-create --cluster-max-bytes 100000000");
        super::Process::new(&folder.path().join(name), &args)
    };
    let refused = node("wrong", &wrong);
    assert!(!refused.start());
    let said = refused.said();
    assert!(said.contains("cannot connect to nats://127.0.0.1") && said.contains("authorization"), "{said}");
    let node = node("right", &right);
    assert!(node.start(), "{}", node.said());
    push_rows(&node.url(), "row", 3).await;
    nats.kill(0);
    nats.kill(1);
    nats.kill(2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for said in [said, node.said()] {
        assert!(!said.to_lowercase().contains("s3cret"), "{said}");
    }
}

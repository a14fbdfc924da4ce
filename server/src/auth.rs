//! Who may do what.

use crate::app::App;
use crate::error::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// Lets through who may read: with the read token or the write token, or anybody if none is set.
pub(crate) async fn reader(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let tokens = [app.config.read_token.as_deref(), app.config.write_token.as_deref()];
    // A write token alone protects pushing; reading is open then.
    check(if tokens[0].is_some() { &tokens } else { &[] }, request.headers())?;
    Ok(next.run(request).await)
}

/// Lets through who may push.
pub(crate) async fn writer(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let token = [app.config.write_token.as_deref()];
    check(if token[0].is_some() { &token } else { &[] }, request.headers())?;
    Ok(next.run(request).await)
}

fn check(tokens: &[Option<&str>], headers: &HeaderMap) -> Result<(), ApiError> {
    if tokens.is_empty() {
        return from_here(headers);
    }
    let unauthorized = |message| ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized("a bearer token is required: `Authorization: Bearer TOKEN`"));
    };
    let given = given.as_bytes();
    let Some(given) =
        given.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer ")).map(|_| &given[7..])
    else {
        return Err(unauthorized("the token must come as `Authorization: Bearer TOKEN`"));
    };
    // Every token is compared, in a time that tells nothing but its length.
    let matching = tokens.iter().flatten().map(|token| token.as_bytes().ct_eq(given));
    if matching.fold(Choice::from(0), |found, one| found | one).into() {
        Ok(())
    } else {
        Err(unauthorized("the token is not one that allows this"))
    }
}

/// Without tokens, everybody on this machine is trusted, but not every web page that is open in a browser on it. A page
/// of another site shows its origin, and one that had its name point here shows that name as the host.
fn from_here(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    let origin_is_host = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_some_and(|(_, origin)| origin == host),
        None => true,
    };
    if origin_is_host && is_local(host) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
        "without tokens, only requests to a loopback address or localhost are answered, and none from other web pages",
    ))
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine_are_known() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:7070", "127.9.9.9", "[::1]:1", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com:80",
            "10.0.0.1",
            "[::2]:1",
            "0.0.0.0",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}

//! Access: tokens, stream tickets, and what is answered without tokens.

use crate::config::{ANY_ORIGIN, Config, Token};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use ringlog_axum::error::ApiError;
use ringlog_axum::tickets::Tickets;
use std::net::IpAddr;
use std::sync::{Arc, Once};
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Headers that proxies add, besides those that have one of [`FORWARDED_PARTS`] in their name.
const FORWARDED: [&str; 8] = [
    "via",
    "x-real-ip",
    "x-real-port",
    "x-envoy-external-address",
    "x-proxyuser-ip",
    "x-amzn-trace-id",
    "x-arr-ssl",
    "proxy-connection",
];

/// `Forwarded`, `X-Forwarded-*`; `X-Original-Host`; `True-Client-IP`, `X-Azure-ClientIP`;
/// `CF-Connecting-IP`; and the like.
const FORWARDED_PARTS: [&str; 5] = ["forwarded", "x-original-", "client-ip", "clientip", "connecting-ip"];

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// The rules of access: which tokens, which tickets, and which origins.
pub(crate) struct Access {
    read: Option<Token>,
    write: Option<Token>,
    /// Origins whose pages may use the server, as browsers send them.
    origins: Vec<String>,
    tickets: Arc<Tickets>,
    proxy_seen: Once,
}

impl Access {
    pub(crate) fn new(config: &Config, tickets: &Arc<Tickets>) -> Self {
        Self {
            read: config.read_token.clone(),
            write: config.write_token.clone(),
            origins: config.cors_origin.clone(),
            tickets: Arc::clone(tickets),
            proxy_seen: Once::new(),
        }
    }

    /// Either token allows reading. A write token alone protects pushing; reading is open then.
    fn check_read(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(read) = &self.read else { return self.check_local(headers) };
        let given = bearer(headers)?;
        if matches([Some(read), self.write.as_ref()], given) { Ok(()) } else { Err(wrong_token()) }
    }

    fn check_write(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(write) = &self.write else { return self.check_local(headers) };
        let given = bearer(headers)?;
        if matches([Some(write), None], given) {
            return Ok(());
        }
        Err(if matches([self.read.as_ref(), None], given) {
            forbidden("the read token does not allow pushing: the write token does")
        } else {
            wrong_token()
        })
    }

    /// Without tokens, every program of this machine is trusted, but no proxy, which speaks for
    /// other machines, and no web page of another site that is open in a browser here. Such a page
    /// shows its origin or, for requests without one, that it is of another site; one whose name
    /// was made to point here shows that name as the host.
    fn check_local(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if let Some(name) = headers.keys().find(|name| is_of_proxy(name)) {
            self.proxy_seen.call_once(|| {
                tracing::warn!(
                    header = %name,
                    "refused a request that a proxy forwarded: set --read-token and --write-token to be used through one"
                );
            });
            return Err(forbidden(format!(
                "`{name}` shows that a proxy forwarded this request: without tokens only this machine is answered; \
                 set --read-token and --write-token"
            )));
        }
        let host = text(headers, header::HOST).unwrap_or_default();
        if !is_local(host) {
            return Err(forbidden(
                "without tokens only requests to a loopback address or localhost are answered: `Host` is another",
            ));
        }
        let may_ask = match text(headers, header::ORIGIN) {
            Some(_) => self.allows_origin(headers),
            None => text(headers, HeaderName::from_static("sec-fetch-site"))
                .is_none_or(|site| matches!(site, "same-origin" | "none")),
        };
        if may_ask {
            return Ok(());
        }
        Err(forbidden(
            "without tokens no request of another site's web page is answered, unless --cors-origin names it",
        ))
    }

    /// Whether a request is of no web page, of one of this server's own, or of one of a configured
    /// origin.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = text(headers, header::ORIGIN) else { return true };
        let host = text(headers, header::HOST).unwrap_or_default();
        origin.split_once("://").is_some_and(|(_, origin)| origin == host)
            || self.origins.iter().any(|known| known == origin || known == ANY_ORIGIN)
    }
}

/// Lets readers through.
pub(crate) async fn reader(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    access.check_read(request.headers())?;
    Ok(next.run(request).await)
}

/// Lets writers through.
pub(crate) async fn writer(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    access.check_write(request.headers())?;
    Ok(next.run(request).await)
}

/// Lets readers through to a live stream: as [`reader`] does, or with a ticket in the query.
pub(crate) async fn subscriber(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    // A browser opens a WebSocket to any origin without asking: the rules of CORS are kept here.
    if headers.contains_key(header::UPGRADE) && !access.allows_origin(headers) {
        return Err(forbidden("no WebSocket for pages of this origin: --cors-origin does not name it"));
    }
    let query = request.uri().query().unwrap_or_default();
    let ticket = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "ticket");
    match ticket {
        None => access.check_read(headers)?,
        Some((_, ticket)) => {
            if access.read.is_none() {
                access.check_local(headers)?;
            }
            if !access.tickets.redeem(&ticket) {
                return Err(unauthorized(
                    "the ticket is unknown, used or expired: get another one with POST /api/sync/ticket",
                ));
            }
        }
    }
    Ok(next.run(request).await)
}

/// Lets web pages of the configured origins use these routes. Goes around all else: pages read
/// refusals as well, and their preflights carry no token.
pub(crate) fn with_cors(routes: Router, config: &Config) -> Router {
    if config.cors_origin.is_empty() {
        return routes;
    }
    let origins = if config.cors_origin.iter().any(|origin| origin == ANY_ORIGIN) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(config.cors_origin.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()))
    };
    let asked = ["authorization", "content-type", "content-encoding", "if-none-match", "last-event-id"];
    let exposed = ["ringlog-resume", "ringlog-stale", "etag", "retry-after", "www-authenticate"];
    routes.layer(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([axum::http::Method::GET, axum::http::Method::HEAD, axum::http::Method::POST])
            .allow_headers(asked.map(HeaderName::from_static))
            .expose_headers(exposed.map(HeaderName::from_static))
            .allow_private_network(true)
            .max_age(PREFLIGHT_MAX_AGE),
    )
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
}

fn wrong_token() -> ApiError {
    unauthorized("the token is not one that allows this")
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| unauthorized("a bearer token is required: `Authorization: Bearer TOKEN`"))?
        .as_bytes();
    given
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token)
        .ok_or_else(|| unauthorized("the token must come as `Authorization: Bearer TOKEN`"))
}

/// Compares every token, in a time that tells nothing but its length.
fn matches(tokens: [Option<&Token>; 2], given: &[u8]) -> bool {
    let matching = tokens.into_iter().flatten().map(|token| token.as_bytes().ct_eq(given));
    matching.fold(Choice::from(0), |found, one| found | one).into()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn is_of_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORWARDED.contains(&name) || FORWARDED_PARTS.iter().any(|part| name.contains(part))
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

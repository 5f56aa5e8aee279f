//! The routes. Paths, statuses, content types and texts are those of the server
//! in `edgestore-repl` 2.2, but that a method other than `GET` or `HEAD` is
//! answered with 405, and that there are `/v2/segments` and `/v2/changes`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use edgestore_engine::{Engine, Hash};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;

use super::ServerLimits;
use super::bodies::{Bodies, Form, NoBody, Version, encode};
use super::changes::{Feed, Query};
use crate::wire::{MerkleBody, WatermarkBody, WireHash};

/// Bytes of a segment held in memory at a time, for each download.
const CHUNK: usize = 64 * 1024;

/// When a client that got no manifest may come back.
const RETRY_AFTER_SECS: &str = "5";

/// The routes of the protocol. They answer every path, so add others to them
/// rather than merge.
pub fn router(engine: Arc<Engine>) -> Router {
    let limit = ServerLimits::default().max_manifest_bytes;
    let feed = Feed::new(Arc::clone(&engine));
    app(engine, Bodies::new(limit, || {}), feed)
}

/// [`router`] with these manifests and changes.
pub(super) fn app(engine: Arc<Engine>, bodies: Arc<Bodies>, feed: Arc<Feed>) -> Router {
    let node = Node { engine, bodies, feed };
    Router::new().fallback(answer).layer(middleware::from_fn(log)).with_state(node)
}

#[derive(Clone)]
struct Node {
    engine: Arc<Engine>,
    bodies: Arc<Bodies>,
    feed: Arc<Feed>,
}

/// Of an answer that is a manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct IsManifest;

/// Empty parts of a path don't count: the published client asks for `//merkle`
/// when its peer is configured with a slash at the end, and its server answers.
/// Route patterns can't say that.
async fn answer(State(node): State<Node>, method: Method, uri: Uri) -> Response {
    let Node { engine, bodies, feed } = node;
    let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let known = matches!(
        parts[..],
        ["merkle" | "watermark" | "segments"] | ["segments", _] | ["v2", "segments" | "changes"]
    );
    if known && method != Method::GET && method != Method::HEAD {
        let refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        return ([(header::ALLOW, "GET,HEAD")], refusal).into_response();
    }
    let query = uri.query();
    let json = query.is_some_and(|query| query.split('&').any(|pair| pair == "debug=json"));
    match parts[..] {
        ["merkle"] => control(json, move || MerkleBody { root: WireHash(engine.root()) }).await,
        ["watermark"] => control(json, move || WatermarkBody::from(engine.watermark())).await,
        ["segments"] => manifest(&engine, &bodies, Form { version: Version::V1, json }).await,
        ["v2", "segments"] => manifest(&engine, &bodies, Form { version: Version::V2, json }).await,
        ["v2", "changes"] => match Query::parse(query) {
            None => text(StatusCode::BAD_REQUEST, "since is EPOCH:SEQ, wait is as 30s"),
            // Who wants no body waits for nothing.
            Some(_) if method == Method::HEAD => StatusCode::OK.into_response(),
            Some(query) => match feed.get(query, json).await {
                Ok(bytes) => {
                    let headers =
                        [(header::CONTENT_TYPE, mime(json)), (header::CACHE_CONTROL, "no-store")];
                    (headers, bytes).into_response()
                }
                Err(error) => internal(&*error),
            },
        },
        ["segments", digits] => segment(engine, digits).await,
        _ => text(StatusCode::NOT_FOUND, "not found"),
    }
}

async fn manifest(engine: &Arc<Engine>, bodies: &Bodies, form: Form) -> Response {
    match bodies.get(engine, form).await {
        Ok(bytes) => {
            let mut answer = ([(header::CONTENT_TYPE, mime(form.json))], bytes).into_response();
            answer.extensions_mut().insert(IsManifest);
            answer
        }
        Err(NoBody::Busy) => {
            let busy = "busy with other manifests; try again";
            let headers = [(header::RETRY_AFTER, RETRY_AFTER_SECS)];
            (headers, text(StatusCode::SERVICE_UNAVAILABLE, busy)).into_response()
        }
        Err(NoBody::Failed(error)) => internal(&*error),
    }
}

async fn segment(engine: Arc<Engine>, digits: &str) -> Response {
    if digits.len() != 64 {
        return text(StatusCode::BAD_REQUEST, "hash_hex must be 64 hex characters");
    }
    let Ok(hash) = digits.parse::<Hash>() else {
        return text(StatusCode::BAD_REQUEST, "invalid hex encoding in hash");
    };
    let opened = {
        let engine = Arc::clone(&engine);
        spawn_blocking(move || engine.open_segment(&hash)).await
    };
    match opened {
        Ok(Ok(Some((file, len)))) => {
            // The length is fixed here, so a body is never longer than it says.
            let file = tokio::fs::File::from_std(file).take(len);
            let file = Checked { file, hasher: blake3::Hasher::new(), hash, engine };
            let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK));
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, len.to_string()),
            ];
            (headers, body).into_response()
        }
        Ok(Ok(None)) => text(StatusCode::NOT_FOUND, "segment not found"),
        Ok(Err(error)) => internal(&error),
        Err(error) => internal(&error),
    }
}

/// The bytes of a segment, which end in an error where they are not what its hash says, so that no
/// peer takes them for whole; and the engine is told.
struct Checked {
    file: tokio::io::Take<tokio::fs::File>,
    hasher: blake3::Hasher,
    hash: Hash,
    engine: Arc<Engine>,
}

impl AsyncRead for Checked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.file).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        this.hasher.update(new);
        let ends = this.file.limit() == 0 || (new.is_empty() && buffer.remaining() > 0);
        if !ends || Hash::from(this.hasher.finalize()) == this.hash {
            return Poll::Ready(Ok(()));
        }
        let (engine, hash) = (Arc::clone(&this.engine), this.hash);
        spawn_blocking(move || {
            if let Err(error) = engine.note_damage(&hash) {
                tracing::error!(%error, %hash, "a peer was given other bytes than it asked for");
            }
        });
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the segment is damaged")))
    }
}

/// Makes and encodes a small control answer away from the event loop.
async fn control<T: Serialize>(json: bool, make: impl FnOnce() -> T + Send + 'static) -> Response {
    match spawn_blocking(move || encode(&make(), json)).await {
        Ok(Ok(bytes)) => ([(header::CONTENT_TYPE, mime(json))], bytes).into_response(),
        Ok(Err(error)) => internal(&*error),
        Err(error) => internal(&error),
    }
}

fn mime(json: bool) -> &'static str {
    if json { "application/json" } else { "application/msgpack" }
}

/// What went wrong is for this node's log, not for its peers.
fn internal(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error, "can't answer a peer");
    text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
}

fn text(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=UTF-8")], text).into_response()
}

async fn log(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, elapsed) = (response.status().as_u16(), start.elapsed());
    tracing::debug!(%method, ?path, status, ?elapsed, "answered a peer");
    response
}

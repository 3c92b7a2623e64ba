//! The API server of the double: HTTPS, a bearer token, and the requests that clients make of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::objects::{KINDS, Key, Refused, matches};
use super::{TOKEN, World, write_kubeconfig};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves on a thread of its own, with a kubeconfig file in `folder`, until told to stop.
pub fn serve(world: Arc<World>, folder: &Path) -> (oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (config, ca) = certificates();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    write_kubeconfig(&folder.join("kubeconfig"), listener.local_addr().unwrap(), &ca);
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            tokio::select! {
                () = accept(world.clone(), listener, TlsAcceptor::from(Arc::new(config))) => {}
                () = watch_containers(world.clone()) => {}
                _ = stopped => {}
            }
        });
        // Those that are still to be waited for: they were killed.
        world.watch_containers();
    });
    (stop, thread)
}

async fn watch_containers(world: Arc<World>) {
    loop {
        world.watch_containers();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn certificates() -> (ServerConfig, String) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (config, ca.pem())
}

async fn accept(world: Arc<World>, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (world, tls) = (world.clone(), tls.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(world.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(world: Arc<World>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let authorized =
        request.headers().get("authorization").is_some_and(|it| *it == *format!("Bearer {TOKEN}"));
    let accept =
        request.headers().get("accept").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if !authorized {
        return Ok(refused((401, "Unauthorized", "Unauthorized".to_owned())));
    }
    let query: BTreeMap<String, String> =
        uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
    let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let answer = match parts[..] {
        ["api"] => Ok(whole(json!({ "kind": "APIVersions", "versions": ["v1"] }))),
        ["apis"] => Ok(whole(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }))),
        ["api", "v1"] => Ok(whole(kinds())),
        ["api", "v1", "namespaces", namespace, plural] if is_kind(plural) => {
            collection(&world, &method, (namespace, plural), &query, &accept, &body)
        }
        ["api", "v1", "namespaces", namespace, plural, name] if is_kind(plural) => {
            one(&world, &method, (namespace, plural, name))
        }
        ["api", "v1", "namespaces", namespace, "pods", name, "log"] => {
            let key = key(namespace, "pods", name);
            let pod = world.objects.lock().unwrap().get(&key);
            pod.map(|pod| Response::new(full(world.log(&pod))))
        }
        _ => Err((404, "NotFound", format!("the server could not find {}", uri.path()))),
    };
    Ok(answer.unwrap_or_else(refused))
}

fn collection(
    world: &Arc<World>,
    method: &Method,
    (namespace, plural): (&str, &str),
    query: &BTreeMap<String, String>,
    accept: &str,
    body: &Bytes,
) -> Result<Response<Body>, Refused> {
    let selector = query.get("labelSelector").map_or("", String::as_str).to_owned();
    let watches = query.get("watch").is_some_and(|it| it == "true" || it == "1");
    match *method {
        Method::POST => {
            may(world, "create", namespace, plural)?;
            let object =
                serde_json::from_slice(body).map_err(|error| (400, "BadRequest", error.to_string()))?;
            let made = world.create(namespace, plural, object)?;
            let mut response = whole(made);
            *response.status_mut() = hyper::StatusCode::CREATED;
            Ok(response)
        }
        Method::GET if watches => {
            may(world, "watch", namespace, plural)?;
            let from = query.get("resourceVersion").and_then(|it| it.parse().ok()).unwrap_or(0);
            Ok(Response::new(follow(world.clone(), namespace.to_owned(), plural.to_owned(), selector, from)))
        }
        Method::GET => {
            may(world, "list", namespace, plural)?;
            let objects = world.objects.lock().unwrap();
            let mut items = objects.list(plural, namespace, &selector);
            let mut kind = format!("{}List", kind_of(plural));
            // Who asks for metadata alone is not given more.
            if accept.contains("PartialObjectMetadataList") {
                kind = "PartialObjectMetadataList".to_owned();
                items = items.iter().map(|item| json!({ "metadata": item["metadata"] })).collect();
            }
            let version = objects.version().to_string();
            Ok(whole(
                json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }),
            ))
        }
        _ => Err((405, "MethodNotAllowed", format!("{method} {plural}"))),
    }
}

fn one(
    world: &World,
    method: &Method,
    (namespace, plural, name): (&str, &str, &str),
) -> Result<Response<Body>, Refused> {
    match *method {
        Method::GET => {
            may(world, "get", namespace, plural)?;
            world.objects.lock().unwrap().get(&key(namespace, plural, name)).map(whole)
        }
        Method::DELETE => {
            may(world, "delete", namespace, plural)?;
            world.delete(namespace, plural, name).map(whole)
        }
        _ => Err((405, "MethodNotAllowed", format!("{method} {plural}"))),
    }
}

/// Every change after version `from`, one line each, for as long as somebody reads.
fn follow(world: Arc<World>, namespace: String, plural: String, selector: String, from: u64) -> Body {
    let changes = world.changes.subscribe();
    let next = move |(mut from, mut changes): (u64, tokio::sync::watch::Receiver<u64>)| {
        let (world, namespace, plural, selector) =
            (world.clone(), namespace.clone(), plural.clone(), selector.clone());
        async move {
            loop {
                changes.borrow_and_update();
                let mut lines = String::new();
                {
                    let objects = world.objects.lock().unwrap();
                    let newer = objects.history.iter().filter(|(version, ..)| *version > from);
                    for (_, what, kind, object) in newer {
                        if *kind == plural
                            && object["metadata"]["namespace"] == *namespace
                            && matches(object, &selector)
                        {
                            lines += &format!("{}\n", json!({ "type": what, "object": object }));
                        }
                    }
                    from = objects.version();
                }
                if !lines.is_empty() {
                    return Some((Ok(Frame::data(Bytes::from(lines))), (from, changes)));
                }
                changes.changed().await.ok()?;
            }
        }
    };
    StreamBody::new(stream::unfold((from, changes), next)).boxed_unsync()
}

fn may(world: &World, verb: &str, namespace: &str, plural: &str) -> Result<(), Refused> {
    let forbidden = world.objects.lock().unwrap().forbidden.clone();
    match forbidden.is_some_and(|(which, what)| which == verb && what == plural) {
        false => Ok(()),
        true => Err((
            403,
            "Forbidden",
            format!(
                "{plural} is forbidden: User \"tester\" cannot {verb} resource \"{plural}\" in API group \"\" in the namespace \
                 \"{namespace}\""
            ),
        )),
    }
}

fn key(namespace: &str, plural: &str, name: &str) -> Key {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

fn is_kind(plural: &str) -> bool {
    KINDS.iter().any(|(known, _)| *known == plural)
}

fn kind_of(plural: &str) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == plural).map_or("", |(_, kind)| kind)
}

/// What `kubectl` asks for first.
fn kinds() -> Value {
    let resource = |(plural, kind): (&str, &str)| {
        json!({ "name": plural, "singularName": "", "namespaced": true, "kind": kind,
                "verbs": ["create", "delete", "get", "list", "watch"] })
    };
    let resources: Vec<Value> = KINDS.into_iter().map(resource).collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources })
}

/// `name=value` of a query.
fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let mut decoded = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    Some((name.to_owned(), String::from_utf8(decoded).ok()?))
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

fn whole(value: Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn refused((code, reason, message): Refused) -> Response<Body> {
    let mut response = whole(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    }));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
    response
}

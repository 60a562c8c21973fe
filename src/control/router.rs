//! The HTTP router of all operations. The control socket serves it; an HTTP listener extends it.
//!
//! Promise:  a handler finds its caller in the request's extensions as `Actor`, put there by the
//!           listener; without one the caller is a stranger. Errors are problem documents (RFC 9457)
//!           with the status of their kind. An operation runs in a task of its own: it is carried out
//!           to its end when the client goes away, and a panic in it ends nothing else.
//! Bounds:   a request body has at most `BODY_BYTES_MAX` and must arrive within `BODY_TIME`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::body::to_bytes;
use axum::extract::FromRequestParts;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::MethodFilter;
use axum::routing::on;
use serde::Serialize;
use tokio::time::timeout;

use crate::control::call::Actor;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::authorize;
use crate::control::call::carry_out;
use crate::control::call::check_permission;
use crate::control::content;
use crate::control::queue;
use crate::control::server::Control;
use crate::operations::Input;
use crate::operations::Method;
use crate::operations::OpFault;
use crate::operations::Operation;
use crate::operations::each_operation;
use crate::operations::queue::ReadMessage;

const BODY_BYTES_MAX: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(5);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// All operations of the list.
pub fn router(control: Arc<Control>) -> Router {
    let mut router = Router::new();
    macro_rules! routes {
        ($($op:ty),+; $($bytes:ty),+ $(,)?) => {
            $(router = router.route(<$op>::ROUTE.path, on(filter::<$op>(), answer::<$op>));)+
            $(router = router.route(<$bytes>::ROUTE.path, on(filter::<$bytes>(), read));)+
        };
    }
    each_operation!(routes);
    router.fallback(unknown).method_not_allowed_fallback(not_allowed).with_state(control)
}

fn filter<O: Operation>() -> MethodFilter {
    match O::ROUTE.method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
    }
}

/// Answers an operation whose result is JSON.
async fn answer<O: CarryOut>(
    State(control): State<Arc<Control>>,
    actor: Option<Extension<Actor>>,
    request: Request,
) -> Response {
    match try_answer::<O>(control, actor_of(actor), request).await {
        Ok(output) => json(StatusCode::OK, JSON, &output),
        Err(fault) => problem(&fault),
    }
}

async fn try_answer<O: CarryOut>(
    control: Arc<Control>,
    actor: Actor,
    request: Request,
) -> Result<O::Output, OpFault> {
    let call = read_call::<O>(actor, request).await?;
    let running = tokio::spawn(async move {
        let _place = (!O::ALWAYS_RUNS).then(|| control.place()).transpose()?;
        carry_out(call, &control).await
    });
    running.await.unwrap_or_else(|_| Err(OpFault::bug()))
}

/// Answers with a message as it would be delivered.
async fn read(
    State(control): State<Arc<Control>>,
    actor: Option<Extension<Actor>>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let found = async {
        let call = read_call::<ReadMessage>(actor_of(actor), request).await?;
        let _place = control.place()?;
        let ReadMessage { id } = call.into_operation();
        control.read(move |spool| queue::pieces(spool, &id)).await
    };
    match found.await {
        Ok(pieces) => content::response(pieces, &headers),
        Err(fault) => problem(&fault),
    }
}

fn actor_of(actor: Option<Extension<Actor>>) -> Actor {
    actor.map_or(Actor::Stranger, |Extension(actor)| actor)
}

/// The request of a caller who may send it.
async fn read_call<O: Operation>(actor: Actor, request: Request) -> Result<Call<O>, OpFault> {
    check_permission::<O>(actor)?;
    authorize(actor, decode::<O>(request).await?)
}

/// The request as its type.
async fn decode<O: Operation>(request: Request) -> Result<O, OpFault> {
    let invalid = |what: String| OpFault::usage("bad_request", what);
    let (mut parts, body) = request.into_parts();
    match O::ROUTE.input() {
        Input::Path => {
            let path = Path::<O>::from_request_parts(&mut parts, &()).await;
            path.map(|Path(operation)| operation).map_err(|cause| invalid(cause.body_text()))
        }
        Input::Query => {
            let query = Query::<O>::try_from_uri(&parts.uri);
            query.map(|Query(operation)| operation).map_err(|cause| invalid(cause.body_text()))
        }
        Input::Body => {
            let body = timeout(BODY_TIME, to_bytes(body, BODY_BYTES_MAX)).await;
            let body =
                body.map_err(|_| invalid("the request body did not arrive in time".into()))?;
            let too_long = |_| {
                invalid(format!(
                    "the request body is incomplete or longer than {BODY_BYTES_MAX} bytes"
                ))
            };
            let body = body.map_err(too_long)?;
            serde_json::from_slice(&body).map_err(|cause| invalid(cause.to_string()))
        }
    }
}

async fn unknown(request: Request) -> Response {
    let what = format!("no operation at {}", request.uri().path());
    problem(&OpFault::not_found("no_such_route", what))
}

async fn not_allowed() -> Response {
    let fault = OpFault::usage("method_not_allowed", "this path requires another method");
    let mut response = problem(&fault);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// A fault as clients get it.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind_of: String,
    title: &'static str,
    status: u16,
    #[serde(flatten)]
    fault: &'a OpFault,
}

pub fn problem(fault: &OpFault) -> Response {
    let status = fault.kind.http_status();
    let problem = Problem {
        kind_of: format!("/problems/{}", fault.code),
        title: fault.kind.title(),
        status,
        fault,
    };
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, PROBLEM, &problem);
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json(status: StatusCode, content_type: HeaderValue, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            (status, [(header::CONTENT_TYPE, content_type)], Body::from(text)).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

//! The table of routes: each row has the handler beside its description, so that neither is without the other.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::ApiState;
use crate::agent::openapi::Operation;

pub(in crate::agent) struct Route {
    pub path: String,
    /// As OpenAPI writes it: `get`.
    pub method: &'static str,
    pub operation: Operation,
    handler: MethodRouter<ApiState>,
}

impl Route {
    /// Adds the same route under a second path.
    pub fn unnamed(self) -> Self {
        Self { operation: self.operation.without_id(), ..self }
    }
}

pub(super) fn router(table: Vec<Route>) -> Router<ApiState> {
    table.into_iter().fold(Router::new(), |router, route| router.route(&route.path, route.handler))
}

macro_rules! method {
    ($name:ident, $filter:ident) => {
        pub(super) fn $name<H: Handler<T, ApiState>, T: 'static>(
            path: &str,
            handler: H,
            operation: Operation,
        ) -> Route {
            let handler = on(MethodFilter::$filter, handler);
            Route { path: path.to_owned(), method: stringify!($name), operation, handler }
        }
    };
}

method!(get, GET);
method!(put, PUT);
method!(post, POST);
method!(patch, PATCH);
method!(delete, DELETE);

//! The slot in which a connection finds its service under the current configuration.

use std::cell::RefCell;
use std::rc::Rc;

use super::service::Service;

pub struct ServiceSlot(RefCell<Rc<Service>>);

impl ServiceSlot {
    pub const fn new(service: Rc<Service>) -> Self {
        Self(RefCell::new(service))
    }

    pub fn service(&self) -> Rc<Service> {
        self.0.borrow().clone()
    }

    /// Puts another configuration of the service in force; its connections find it at their next request.
    pub fn replace(&self, service: Rc<Service>) {
        self.0.replace(service);
    }
}

/// The listener that a client connected to.
#[derive(Clone)]
pub enum Ingress {
    Service(Rc<ServiceSlot>),
    Gateway,
}

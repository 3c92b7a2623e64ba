//! Cubic, with two changes for this crate.
//!
//! It begins with a window for a data centre: quinn's own first window is smaller than one packet of loopback, so that
//! a single probe for the path's MTU would hold everything else up.
//!
//! And it stands aside when a connection is closed. quinn subjects the closing packet to the window as long as data
//! waits to be sent, and no acknowledgement is heard any more after closing: in the midst of a transfer the peer would
//! never be told why, only meet silence.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use crate::CloseCode;

/// Bytes in flight at the beginning of a connection.
const INITIAL_WINDOW: u64 = 1024 * 1024;

/// Closes a connection so that the peer is told, whatever is under way.
pub(crate) fn close(connection: &quinn::Connection, code: CloseCode, reason: &str) {
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<Yielding>() {
        controller.closing.store(true, Relaxed);
    }
    connection.close((code as u32).into(), reason.as_bytes());
}

/// Makes the controllers.
pub(crate) struct Factory(Arc<CubicConfig>);

impl Factory {
    pub(crate) fn new() -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW);
        Self(Arc::new(cubic))
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.0).build(now, mtu);
        Box::new(Yielding { inner, closing: Arc::default() })
    }
}

/// A controller whose window has no end once its connection is being closed. Clones share that.
struct Yielding {
    inner: Box<dyn Controller>,
    closing: Arc<AtomicBool>,
}

impl Controller for Yielding {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        // Above u32::MAX quinn does not pace either.
        if self.closing.load(Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), closing: Arc::clone(&self.closing) })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

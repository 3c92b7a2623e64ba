//! The UDP socket of an endpoint.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt;

/// Binds, with buffers of the given size as far as the system grants them.
pub(crate) fn bind(addr: SocketAddr, buffer: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    let wanted = buffer as usize;
    // The forced variants go above net.core.{r,w}mem_max and need CAP_NET_ADMIN; without it take what is granted.
    if sockopt::set_socket_recv_buffer_size_force(&socket, wanted).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, wanted)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, wanted)?;
    tracing::debug!(
        %addr,
        receive = sockopt::socket_recv_buffer_size(&socket)?,
        send = sockopt::socket_send_buffer_size(&socket)?,
        "socket buffers"
    );
    Ok(socket)
}

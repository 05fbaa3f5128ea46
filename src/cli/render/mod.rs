//! The only printer: results to stdout in one piece, everything else to stderr as it happens.

mod compare;
mod deployments;
mod events;
mod findings;
mod history;
mod init;
mod journal;
mod lab;
mod live_table;
mod promote;
mod renderer;
mod roll;
mod status;
mod summary;
mod switch;
mod table;
mod time_format;
mod verification;

pub use compare::format_html_page;
pub use promote::PromotionView;
pub use renderer::Renderer;
pub use roll::RollView;
pub use summary::RollSummary;
pub use time_format::TimeFormat;

//! Figures of several rounds, and how they are shown.

/// A figure, measured once a round.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Round by round: what both met was the same.
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    pub fn shown(&self, unit: Unit) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if self.0.is_empty() {
            "-".to_owned()
        } else {
            format!("{} ({}..{})", unit.show(self.median()), unit.show(least), unit.show(most))
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Whole,
    /// A number with one decimal.
    Tenths,
    /// Two.
    Hundredths,
}

impl Unit {
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Whole => format!("{figure:.0}"),
            Self::Tenths => format!("{figure:.1}"),
            Self::Hundredths => format!("{figure:.2}"),
        }
    }
}

/// `wanted` is the most that is good.
pub fn verdict(ratio: &Figures, wanted: f64) -> String {
    let said = if ratio.median() <= wanted { "met" } else { "missed" };
    format!("{}  wanted: at most {wanted}: {said}", ratio.shown(Unit::Hundredths))
}

pub fn line(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

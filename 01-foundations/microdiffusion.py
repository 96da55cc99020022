"""Learn to guess the noise in a point, and you can walk from pure noise back to the data.

The problem: there are points in the plane that lie along a spiral, and we want more points like
them. Nobody tells us that it is a spiral. So we need a program that turns random numbers into
points, and that learns from the given points alone where its points should lie. To take only their
center and their spread from the data is not enough, because a cloud with the same center and spread
fills the empty middle of the spiral as well.

The idea: the way from data to noise is easy. Pull a point a little towards the origin, add a little
noise, and repeat this until almost nothing is left of the point. (Noise is a random number for each
coordinate, from a Gaussian distribution with mean 0. Its size is given by its variance, which is
the mean square of the distances from the mean. Standard noise has variance 1.) On this way we know
the noise, because we have drawn it ourselves. So we can train a network to look at a noisy point
and to guess which noise is in it. That is enough to walk back. Start with pure noise. Take away a
part of the noise that the network sees. Its guess is an average over all data that may be hidden
there, so add some fresh noise, less than was taken away, to leave this open. Let the network look
again. From step to step, the cloud of all points gets less noisy, and the last step adds no noise.

Below, x_0 is a point of the data, x_t is what has become of it after t steps, and T is the number
of steps, after which almost only noise is left.

    x_0  -->  x_1  -->  x_2  -->  ...  -->  x_T      data to noise: nothing is learned here
    x_0  <--  x_1  <--  x_2  <--  ...  <--  x_T      noise to data: the network says where to go

    1. make_points: the data. x_0 is one of these points.
    2. make_betas: decide how much noise each of T steps adds. Step t, for t from 1 to T, multiplies
       the point by sqrt(1 - beta_t) and adds noise of the variance beta_t. The result is x_t.
       make_alpha_bars: alpha_bar_t is the product of 1 - beta_1 to 1 - beta_t. As the data has
       variance 1, it is the share of the variance of x_t that comes from the data: 1 for x_0, and
       nearly 0 for x_T.
    3. add_noise: compute x_t from x_0 in one jump, without the steps between:
       x_t = sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps. Here eps is standard noise. It
       stands for the noise of all t steps together.
    4. predict_noise: the network reads x_t and t, and returns a guess of eps.
    5. train: draw a point and noise, and add the noise to the point. Change the network so that the
       squared difference between its guess and the noise falls. Do this for every t, many times.
    6. sample_path: draw pure noise and call it x_T. For t = T, T - 1, ..., 1, ask the network for a
       guess. reverse_step takes a part of the guess away, and rescales the point. This estimates
       the average of the x_{t-1} that x_t may have come from. They scatter around it, so fresh
       noise is added (see SAMPLING). The last step adds none. Its result, x_0, is the new point.

The algorithm is called DDPM, for denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020).
The equation numbers are theirs. The idea is that of Sohl-Dickstein et al. (2015), who showed it on
a spiral, too. Ho et al. made images by these steps, with a far larger network: an image is a point
with three coordinates per pixel. Left out are prompts, the compression of images before the noise
is added (as in Stable Diffusion), and ways to sample in fewer steps (Song et al. 2021).
"""

import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS ===
num_points = 2000  # points to train on
jitter = 0.08  # how far they stray from the curve: standard deviation of each coordinate
angle_start = 0.5 * math.pi  # the spiral makes one turn, from this angle
angle_end = 2.5 * math.pi  # to this one
num_curve_points = 400  # points that stand for the curve itself
num_timesteps = 30  # T, the steps from data to noise; Ho et al. take 1000, with smaller betas
beta_start = 0.01  # variance of the noise that step 1 adds
beta_end = 0.3  # the same for step T
num_time_features = 8  # numbers that tell the network which t it is
n_hidden = 18  # numbers in each hidden layer of the network
num_hidden_layers = 3
num_steps = 1500  # training steps, which are another thing: each changes the network once
learning_rate = 0.03  # how far a training step moves a parameter at first; it falls linearly to 0
num_samples = 1000  # points to make, to judge the network by
near_distance = 0.21  # what is closer to the curve counts as near: 99 % of points with this jitter
example_noise = [1.0, -0.5]  # for the training point that is shown in the output
example_times = [1, 10, 30]  # at which it is shown
example_time_back = 10  # from which one reverse step is shown
drawn_times = [30, 12, 6, 3, 0]  # at which the points on their way to data are drawn
# the following are read by the code that is repeated from microgpt, near the end
beta1 = 0.85  # Adam's memory of the gradient; unrelated to beta_1, the noise of step 1
beta2 = 0.99  # Adam's memory of the squared gradient; unrelated to beta_2
eps_adam = 1e-8  # keeps Adam's division finite; unrelated to the noise eps

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value(data, inputs, local_grads) is a number that remembers how it was computed: from which
#   inputs, and with which derivative for each. loss.backward() adds d(loss)/d(value) to the .grad
#   of every Value that the loss was computed from.
# - The network works on Values, which are trained, and on floats, which are fast and get no
#   gradient. as_values() and as_floats() copy a model {name: matrix} into the other kind.
# - dot(a, b) is the dot product of two vectors. linear(x, matrix) is the dot product of x with each
#   row of the matrix.
# - adam_step(params, m, v, step, rate) changes Values so that the loss falls, and sets their
#   gradients back to 0. The lists m and v are its memory, of one number per parameter.


# === THE DATA: points near a spiral ===
def make_curve():
    """The curve that the data lies along, as points [num_curve_points][2] from end to end.

    At each angle, the distance from the origin is equal to the angle. That is a spiral. The whole
    is then moved and rescaled, until both coordinates have the mean 0, and their two variances have
    the average 1, which is the variance of the noise. So a cloud of points keeps its size on the
    way from data to noise.
    """
    spiral = []
    for i in range(num_curve_points):
        # A small turn moves a point by about turn * angle. From 0 to an angle, this adds up to
        # angle^2 / 2. So points are about equally far apart if the squares of their angles are.
        fraction = i / (num_curve_points - 1)  # 0 at the inner end, 1 at the outer end
        angle_squared = angle_start**2 + fraction * (angle_end**2 - angle_start**2)
        angle = math.sqrt(angle_squared)
        spiral.append([angle * math.cos(angle), angle * math.sin(angle)])
    # coordinates() lists one coordinate of all points. It and variance() stand with the measures.
    center = [mean(coordinates(spiral, axis)) for axis in (0, 1)]
    scale = math.sqrt(mean([variance(spiral, axis) for axis in (0, 1)]))
    return [[(point[axis] - center[axis]) / scale for axis in (0, 1)] for point in spiral]


def make_points(count, curve):
    """Data: `count` points [count][2], each at a random place of the curve, moved by the jitter."""
    points = []
    for _ in range(count):
        place = random.choice(curve)
        points.append([coordinate + random.gauss(0, jitter) for coordinate in place])
    return points


# === FROM DATA TO NOISE: any number of steps in one jump ===
#
# Step t turns x_{t-1} into x_t. It pulls the point towards the origin, and adds noise of the
# variance beta_t:
#
#     x_t = sqrt(1 - beta_t) * x_{t-1} + sqrt(beta_t) * n_t     n_t is standard noise        (eq. 2)
#
# Why the roots? A factor f multiplies a variance by f squared, and the variances of independent
# numbers add up. So if x_{t-1} has variance 1, x_t has (1 - beta_t) * 1 + beta_t = 1 again.
#
# The first two steps are
#
#     x_1 = sqrt(1 - beta_1) * x_0 + sqrt(beta_1) * n_1
#     x_2 = sqrt(1 - beta_2) * x_1 + sqrt(beta_2) * n_2
#
# and with x_1 put into the second line:
#
#     x_2 = sqrt(1 - beta_2) * sqrt(1 - beta_1) * x_0
#           + sqrt(1 - beta_2) * sqrt(beta_1) * n_1       variance (1 - beta_2) * beta_1
#           + sqrt(beta_2) * n_2                          variance beta_2
#
# The lower two lines are all noise in x_2. They are Gaussian and independent, so their sum is
# Gaussian, too. Its variance is the sum of the two variances. Write beta_2 as 1 - (1 - beta_2):
#
#     (1 - beta_2) * beta_1 + beta_2  =  1 - (1 - beta_2) + (1 - beta_2) * beta_1
#                                     =  1 - (1 - beta_2) * (1 - beta_1)
#
# Call the product (1 - beta_2) * (1 - beta_1) alpha_bar_2. Then the two steps are one:
#
#     x_2 = sqrt(alpha_bar_2) * x_0 + sqrt(1 - alpha_bar_2) * eps
#
# Here eps is all noise in x_2, divided by the root of its variance. So eps is standard noise, but
# it is neither n_1 nor n_2. Step 3 multiplies the variance of all noise in x_2 by 1 - beta_3, and
# adds beta_3:
#
#     (1 - beta_3) * (1 - alpha_bar_2) + beta_3  =  1 - beta_3 - (1 - beta_3) * alpha_bar_2 + beta_3
#                                                =  1 - (1 - beta_3) * alpha_bar_2
#
# So alpha_bar_3 is (1 - beta_3) * alpha_bar_2, and each further step brings one more such factor.
# The same holds for every t: all noise in x_t together has the variance 1 - alpha_bar_t. Let eps be
# this noise, divided by the root of this variance. Then eps is standard noise, and
#
#     alpha_bar_t = (1 - beta_1) * (1 - beta_2) * ... * (1 - beta_t)
#     x_t = sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps                            (eq. 4)
#
# What alpha_bar_t means: averaged over its two coordinates, the variance of the data is about 1 (1
# for the curve, and jitter^2 = 0.0064 more). So alpha_bar_t is the share of the variance of x_t
# that comes from the data, and 1 - alpha_bar_t is the share that comes from noise. (In the paper,
# alpha_t is 1 - beta_t. The bar stands for the product.)
#
# This jump makes training cheap: a noisy point for t = 30 costs as much as one for t = 1.


def make_betas():
    """beta_t for t = 0 ... T: [T + 1]. It grows by the same amount from each step to the next.

    There is no step 0. The 0.0 in its place makes betas[t] belong to step t.
    """
    betas = [0.0]
    for t in range(1, num_timesteps + 1):
        fraction = (t - 1) / (num_timesteps - 1)  # 0 for the first step, 1 for the last
        betas.append(beta_start + fraction * (beta_end - beta_start))
    return betas


def make_alpha_bars(betas):
    """alpha_bar_t for t = 0 ... T: [T + 1], from 1 (all data) down to nearly 0 (all noise).

    It has to be nearly 0 at t = T, because sampling begins there with noise alone.
    """
    alpha_bars = [1.0]
    for beta in betas[1:]:  # without the 0.0 that stands for no step
        alpha_bars.append(alpha_bars[-1] * (1 - beta))
    return alpha_bars


def standard_noise():
    """Noise for a point [2]: a Gaussian number with mean 0 and variance 1 for each coordinate."""
    return [random.gauss(0, 1), random.gauss(0, 1)]


def add_noise(x_0, eps, alpha_bar):
    """x_t [2] from a point x_0 [2] and noise eps [2]: all steps from 1 to t in one jump.

        x_t = sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps                          (eq. 4)

    With x_0 = [1, 0], eps = [0.5, -1] and alpha_bar = 0.64, the two roots are 0.8 and 0.6:

        x_t = 0.8 * [1, 0] + 0.6 * [0.5, -1] = [1.1, -0.6]
    """
    x_factor = math.sqrt(alpha_bar)
    eps_factor = math.sqrt(1 - alpha_bar)
    return [x_factor * x_i + eps_factor * eps_i for x_i, eps_i in zip(x_0, eps)]


# === THE NETWORK: it looks at a noisy point, and guesses the noise ===
def time_embedding(t):
    """t as numbers between -1 and 1 that change smoothly with t: [num_time_features].

    Think of clocks with one hand each. A clock gives two numbers, the sine and the cosine of the
    angle of its hand at time t. The first hand makes one turn in T steps, the others in 2 * T,
    4 * T and 8 * T. The first transformer was told positions in this way, with other clocks
    (Vaswani et al. 2017). This is the custom. The run does not show that the network needs more
    than the bare number t / T.
    """
    features = []
    for i in range(num_time_features // 2):
        steps_per_turn = num_timesteps * 2**i
        angle = 2 * math.pi * t / steps_per_turn
        features.append(math.sin(angle))
        features.append(math.cos(angle))
    return features


def tanh(z):
    """The hyperbolic tangent of a Value or a float: near z for a small z, never beyond -1 or 1."""
    return z.tanh() if isinstance(z, Value) else math.tanh(z)


def init_network():
    """Random parameters {name: matrix}. A matrix [n_out][n_in] turns n_in numbers into n_out.

    Each output is a sum of n_in products, one parameter times one input. If the inputs have about
    the variance 1 and the parameters have variance 1 / n_in, each product has about the variance
    1 / n_in, and the sum about 1. So the numbers stay of the same order.
    """
    shapes = {"layer0": (n_hidden, 2 + num_time_features + 1)}  # x_t, t, and 1.0 for the bias
    for layer in range(1, num_hidden_layers):
        shapes[f"layer{layer}"] = (n_hidden, n_hidden)
    shapes["out"] = (2, n_hidden)
    model = {}
    for name, (n_out, n_in) in shapes.items():
        std = 1 / math.sqrt(n_in)
        model[name] = [[random.gauss(0, std) for _ in range(n_in)] for _ in range(n_out)]
    return model


def predict_noise(model, x_t, t):
    """The network's guess [2] of the noise eps from which x_t [2] was made (eq. 4).

    It is a multi-layer perceptron: products with matrices, with tanh between them. (Without the
    bend of tanh, several matrices in a row could do no more than a single one.) It needs t: for a
    small t, x_0 must be near x_t, and for a large t it may be anywhere.

    Why guess the noise, and not x_0? Each tells the other: for a given x_t, eq. 4 can be solved for
    x_0 or for eps. Ho et al. got better images from a network that guesses the noise.
    """
    # The 1.0 is for the bias: what a row of layer0 has in this place is added whatever x_t and t
    # are. The later matrices have no bias, which keeps the code short.
    inputs = [*x_t, *time_embedding(t), 1.0]
    h = [tanh(z) for z in linear(inputs, model["layer0"])]
    for layer in range(1, num_hidden_layers):
        # A layer adds to h instead of replacing it. This is the custom in networks of many layers,
        # where it lets gradients past each layer. Whether these few need it is not tested.
        change = [tanh(z) for z in linear(h, model[f"layer{layer}"])]
        h = [h_i + change_i for h_i, change_i in zip(h, change)]
    return linear(h, model["out"])


# === TRAINING: add noise that we know, and let the network guess it ===
#
#     repeat:
#         for t = 1, 2, ..., T:
#             x_0   = a point of the data, drawn at random
#             eps   = standard noise, drawn at random
#             x_t   = sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps
#             guess = what the network guesses from x_t and t
#             loss  = (guess - eps)^2, averaged over the coordinates
#         change the parameters so that the average of the T losses falls
#
# Algorithm 1 of the paper draws t at random as well. Here each t comes once in every training step,
# because the noise is harder to guess for some t than for others (the run shows how much). If t
# were drawn, a training step could have many easy or many hard points by luck.
#
# The loss cannot fall to 0, because x_t is a sum of data and noise, and does not tell exactly which
# is which. This matters most for a small t: a little noise along the spiral looks like another
# place on it, and a little noise across it looks like the jitter. Whoever knows the spiral can
# compute the guess with the least loss, about 0.29 as the average over all t (see best_guess).


def noise_loss(model, x_0, t, eps, alpha_bars):
    """Mean squared difference between the guess and eps, for the noise eps [2] on a point x_0 [2].

    A network that always guesses 0 has a loss of 1 on average, because that is the variance of eps.
    (Eq. 14 adds the coordinates up, where this takes their mean.)
    """
    x_t = add_noise(x_0, eps, alpha_bars[t])
    guess = predict_noise(model, x_t, t)
    errors = [guess_i - eps_i for guess_i, eps_i in zip(guess, eps)]
    return dot(errors, errors) * (1 / len(errors))


def train(model, points, alpha_bars):
    """Train a network of Values in place. Yield the average loss before each training step."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step in range(num_steps):
        losses = []
        for t in range(1, num_timesteps + 1):
            x_0 = random.choice(points)
            eps = standard_noise()
            losses.append(noise_loss(model, x_0, t, eps, alpha_bars))
        # The average is losses[0] * 1/T + losses[1] * 1/T + ..., which is a dot product.
        loss = dot(losses, [1 / num_timesteps] * num_timesteps)
        loss.backward()
        rate = learning_rate * (1 - step / num_steps)  # falls to 0
        adam_step(params, m, v, step + 1, rate)
        yield loss.data


# === SAMPLING: from noise to data, in small steps ===
#
#     x_T = standard noise                                                             sample_path
#     for t = T, T - 1, ..., 1:
#         guess   = what the network guesses from x_t and t                            predict_noise
#         mu      = (x_t - beta_t / sqrt(1 - alpha_bar_t) * guess) / sqrt(1 - beta_t)  reverse_mean
#         x_{t-1} = mu + sqrt(beta_t) * fresh standard noise, or mu alone if t = 1     reverse_step
#
# Where does mu come from (eq. 11)? Suppose first that the guess is exactly eps. We want to undo
# step t alone, so we solve its equation for x_{t-1}:
#
#     x_t     = sqrt(1 - beta_t) * x_{t-1} + sqrt(beta_t) * n_t                              (eq. 2)
#     x_{t-1} = (x_t - sqrt(beta_t) * n_t) / sqrt(1 - beta_t)
#
# We do not know n_t. We know all noise in x_t, which is sqrt(1 - alpha_bar_t) * eps and has the
# variance 1 - alpha_bar_t. Step t multiplied the noise that was there by sqrt(1 - beta_t) and added
# sqrt(beta_t) * n_t. The added part has the variance beta_t, and is independent of the rest.
#
# If two independent Gaussian numbers have the mean 0, and only their sum is known, then the first
# is expected to be k * sum, with k = (variance of the first) / (variance of the sum). With the
# variances 3 and 1 and the sum 8, we expect 3 / 4 * 8 = 6, which leaves 2 for the second. (The
# reason: the mean of (first - k * sum) * sum is (variance of the first) - k * (variance of the sum)
# = 0. For Gaussian numbers this means that first - k * sum is independent of the sum. So it is 0 on
# average, whatever the sum is.) Here the first is sqrt(beta_t) * n_t, and the sum is all noise in
# x_t:
#
#     expected sqrt(beta_t) * n_t  =  beta_t / (1 - alpha_bar_t) * sqrt(1 - alpha_bar_t) * eps
#                                  =  beta_t / sqrt(1 - alpha_bar_t) * eps
#
# because sqrt(a) / a = 1 / sqrt(a). Put this into the second line of eq. 2, and write guess instead
# of eps. That is mu. If the guess is eps, it is the average of x_{t-1} for given x_t and eps.
#
# But the network does not know eps. Many points of the data could have led to x_t, each with an eps
# of its own. The guess with the smallest squared error is their average. (If eps is as often 2 as
# 6, the guess 4 has the squared errors 4 and 4, and the guess 3 has 1 and 9. A more probable eps
# counts more.) Each eps has its mu. Since mu is x_t minus a multiple of eps, rescaled, the average
# eps gives the average of all x_{t-1} for x_t alone. With the network's guess, mu estimates it.
#
# Why fresh noise? The x_{t-1} that lead to the same x_t are not equal. They scatter around their
# average. Samples that go from mu to mu crowd together (see walk_without_noise). How large should
# the fresh noise be? The paper knows the right variance for two kinds of data. If the data is
# standard noise, it is beta_t. If all data is a single point, it is the smaller number
# beta_t * (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), the variance of x_{t-1} if x_t and x_0 are
# known. A spiral is neither. In the step in the output the guess is exact, so x_0 is known. There
# beta_t is too much: 0.386 instead of 1 - alpha_bar_9 = 0.372. With 1000 small steps, Ho et al. had
# similar results with both. With few large steps they differ more. Here it is beta_t, the simpler
# one. (docs/exercises.md has an edit that tries the other.)
#
# Why small steps? If beta_t is small, the x_{t-1} that lead to x_t have nearly a Gaussian
# distribution, so that mu and Gaussian noise describe them. (Near T a larger beta_t does no harm,
# because x_{t-1} is nearly Gaussian noise itself.) If beta_t is large, they may lie at several
# places of the spiral, and mu between them, where no data is. In the extreme, one step from x_T to
# x_0 with the best guess would put every point near the mean of the data, in the empty middle.
# After a small step, less noise is left. So fewer points of the data can have led there, and the
# next guess averages over fewer.


def reverse_mean(x_t, guess, beta, alpha_bar):
    """mu [2], the expected x_{t-1}, if `guess` [2] is the noise eps of x_t [2].

        mu = (x_t - beta_t / sqrt(1 - alpha_bar_t) * guess) / sqrt(1 - beta_t)              (eq. 11)

    Take x_t = [1.1, -0.6], guess = [0.5, -1], beta = 0.19 and alpha_bar = 0.64. The roots are
    sqrt(1 - 0.64) = 0.6 and sqrt(1 - 0.19) = 0.9. To three decimals, 0.19 / 0.6 = 0.317:

        mu = ([1.1, -0.6] - 0.317 * [0.5, -1]) / 0.9 = [0.942, -0.283] / 0.9 = [1.046, -0.315]
    """
    guess_factor = beta / math.sqrt(1 - alpha_bar)  # how much of the guess is taken away
    shrink = math.sqrt(1 - beta)  # step t multiplied the point by this
    mu = []
    for x_i, guess_i in zip(x_t, guess):
        mu.append((x_i - guess_factor * guess_i) / shrink)
    return mu


def reverse_step(x_t, guess, t, betas, alpha_bars):
    """x_{t-1} [2] from x_t [2] and the guess of its eps [2]: mu, and fresh noise if t > 1.

    The last step adds no noise, because no step follows that could take it away again.
    """
    mu = reverse_mean(x_t, guess, betas[t], alpha_bars[t])
    if t == 1:
        return mu
    sigma = math.sqrt(betas[t])  # standard deviation of the fresh noise
    fresh_noise = standard_noise()
    return [mu_i + sigma * noise_i for mu_i, noise_i in zip(mu, fresh_noise)]


def sample_path(model, betas, alpha_bars):
    """A point on its whole way from noise to data (algorithm 2): {t: x_t}, for t = T ... 0.

    path[0] is the sample. path[T] is noise alone, although alpha_bar_T is not quite 0.
    """
    path = {num_timesteps: standard_noise()}
    for t in range(num_timesteps, 0, -1):
        guess = predict_noise(model, path[t], t)
        path[t - 1] = reverse_step(path[t], guess, t, betas, alpha_bars)
    return path


# === HOW GOOD IT IS: do the samples have the shape of the data? ===
#
# Three figures together judge a cloud of points. mean_error and variance_error compare its means
# and variances with those of the training points. The cloud of gaussian_like passes these two, but
# it has no shape. near_rate looks at the shape, and is not enough alone: on seed 42, the cloud of
# walk_without_noise has a higher rate than the samples, but it is crowded and fails the other two.
#
# How good can samples be? Even fresh points of the data have errors up to 0.08 (seeds 42 to 44), by
# the luck of the 2000 training points and of their own 1000 draws. The bound for samples is 0.2.
# With best_guess in place of the network, the same steps bring 99 % of the samples near the curve,
# so 30 steps are enough if the guess is good. On seed 42, the network's loss is higher by about 0.1
# at t = 1 to 3, where points find their place on the curve, and by about 0.02 or less from t = 7
# on. This is why a quarter of its samples are not near the curve. What the errors cost also depends
# on the variance of the fresh noise. With 882 parameters, the network can hardly have memorized the
# 2000 points. Its loss over all t is 0.31 on them and on fresh ones, but that alone proves little.


def walk_without_noise(model, x_T, betas, alpha_bars):
    """From x_T [2] to x_0 [2] by mu alone. For a comparison that shows what fresh noise does.

    Such points crowd together, even with best_guess. With the network, a variance is 62 to 83 % too
    small on the seeds 42 to 44. How many points are near the curve depends on the errors of the
    network: 84 % on seed 42, 36 % and 40 % on the seeds 43 and 44.
    """
    x_t = x_T
    for t in range(num_timesteps, 0, -1):
        guess = predict_noise(model, x_t, t)
        x_t = reverse_mean(x_t, guess, betas[t], alpha_bars[t])
    return x_t


def best_guess(x_t, curve, alpha_bar):
    """The guess [2] of the noise eps of x_t [2] that has the least loss: the average eps.

    x_t is sqrt(alpha_bar) * (place + jitter) + sqrt(1 - alpha_bar) * eps, with an unknown place of
    the curve. The closer sqrt(alpha_bar) * place is to x_t, the more probable is the place.
    """
    rest_variance = alpha_bar * jitter**2 + 1 - alpha_bar  # of the jitter and eps together
    shrunk = [[math.sqrt(alpha_bar) * coordinate for coordinate in place] for place in curve]
    # The Gaussian density is proportional to exp(-distance^2 / (2 * variance)).
    weights = [math.exp(-(math.dist(x_t, place) ** 2) / (2 * rest_variance)) for place in shrunk]
    guess = []
    for axis in (0, 1):
        rest = x_t[axis] - dot(weights, coordinates(shrunk, axis)) / math.fsum(weights)
        # rest is expected to be jitter and eps together. By the rule in SAMPLING, of this
        # sqrt(1 - alpha_bar) * eps has the share (1 - alpha_bar) / rest_variance.
        guess.append(math.sqrt(1 - alpha_bar) / rest_variance * rest)
    return guess


def mean_losses_at(model, points, t, alpha_bars, curve):
    """The average losses of the network and of best_guess at one t, each point with one noise."""
    losses = []
    least_losses = []
    for x_0 in points:
        eps = standard_noise()
        losses.append(noise_loss(model, x_0, t, eps, alpha_bars))
        guess = best_guess(add_noise(x_0, eps, alpha_bars[t]), curve, alpha_bars[t])
        least_losses.append(math.dist(guess, eps) ** 2 / 2)
    return mean(losses), mean(least_losses)


def coordinates(points, axis):
    """One coordinate of all points [n][2]: the horizontal one for axis 0, the vertical for 1."""
    return [point[axis] for point in points]


def covariance(points):
    """The mean product of both coordinates' distances from their means, of points [n][2]."""
    center = [mean(coordinates(points, axis)) for axis in (0, 1)]
    return mean([(point[0] - center[0]) * (point[1] - center[1]) for point in points])


def variance(points, axis):
    """The mean square of one coordinate's distance from its mean, of points [n][2]."""
    values = coordinates(points, axis)
    center = mean(values)
    return mean([(value - center) ** 2 for value in values])


def mean_error(cloud, points):
    """The distance between the two means, in standard deviations of `points`.

    Of the two coordinates, the one with the larger error counts, here and in variance_error.
    """
    errors = []
    for axis in (0, 1):
        distance = mean(coordinates(cloud, axis)) - mean(coordinates(points, axis))
        errors.append(abs(distance) / math.sqrt(variance(points, axis)))
    return max(errors)


def variance_error(cloud, points):
    """By how much the variance differs from that of `points`: 0.1 means 10 % too large or small."""
    ratios = [variance(cloud, axis) / variance(points, axis) for axis in (0, 1)]
    return max(abs(ratio - 1) for ratio in ratios)


def gaussian_like(points):
    """As many points from a Gaussian whose means, variances and covariance are those of `points`.

    The second coordinate is slope * first + rest. The rest is independent of the first, so that
    slope * (variance of the first) is the covariance, and the two parts' variances add up.
    """
    center = [mean(coordinates(points, axis)) for axis in (0, 1)]
    first_std = math.sqrt(variance(points, 0))
    slope = covariance(points) / variance(points, 0)
    rest_std = math.sqrt(variance(points, 1) - slope**2 * variance(points, 0))
    draws = []
    for _ in points:
        first = random.gauss(0, first_std)
        rest = random.gauss(0, rest_std)
        draws.append([center[0] + first, center[1] + slope * first + rest])
    return draws


def curve_distance(point, curve):
    """The distance from a point [2] to the nearest point of the curve [n][2]."""
    squares = [(point[0] - place[0]) ** 2 + (point[1] - place[1]) ** 2 for place in curve]
    return math.sqrt(min(squares))


def near_rate(points, curve):
    """The rate of points that are near the curve, from 0 to 1."""
    return mean([curve_distance(point, curve) < near_distance for point in points])


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    # The data and the schedule of the noise. One point at three t, and one step back.
    curve = make_curve()
    points = make_points(num_points, curve)
    betas = make_betas()
    alpha_bars = make_alpha_bars(betas)
    print(f"{num_points} points along a spiral. At t = {num_timesteps}, the share of the variance")
    print(f"that still comes from them is alpha_bar = {alpha_bars[-1]:.4f}.")
    show_noisy(points[0], example_noise, alpha_bars)
    show_one_step_back(points[0], example_noise, example_time_back, betas, alpha_bars)

    model = as_values(init_network())
    num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
    print(f"\nTraining {num_params} parameters to guess the noise. To guess 0 costs 1 on average.")
    print(f"A loss varies by chance, as it is of {num_timesteps} points:")
    losses = show_training(train(model, points, alpha_bars), num_steps)
    model = as_floats(model)

    # How well does the network guess the noise in this point, and in points it has not seen?
    fresh = make_points(num_samples, curve)
    fresh_losses = {t: mean_losses_at(model, fresh, t, alpha_bars, curve) for t in example_times}
    show_guesses(model, points[0], example_noise, alpha_bars, curve, fresh_losses)

    # Walk from noise to new points. For comparison, walk from the same x_T without fresh noise.
    paths = [sample_path(model, betas, alpha_bars) for _ in range(num_samples)]
    samples = [path[0] for path in paths]
    starts = [path[num_timesteps] for path in paths]
    noiseless = [walk_without_noise(model, x_T, betas, alpha_bars) for x_T in starts]
    gaussian = gaussian_like(points)
    show_paths(paths)
    draw_clouds({"training points": points, "samples": samples}, 38, 18)
    clouds = {"training points": points, "fresh points": fresh, "samples": samples}
    show_clouds(clouds | {"no fresh noise": noiseless, "Gaussian": gaussian}, points, curve)

    first_loss = mean(losses[:100])
    near = near_rate(samples, curve)
    gaussian_near = near_rate(gaussian, curve)
    print_results(
        [
            ("params", num_params, ""),
            ("train_points", num_points, ""),
            ("mean_loss_first_100", first_loss, ""),
            ("mean_loss_last_100", mean(losses[-100:]), f"< {first_loss - 0.1:.4f}"),
            ("mean_error", mean_error(samples, points), "< 0.2"),
            ("variance_error", variance_error(samples, points), "< 0.2"),
            ("near_curve_rate", near, "> 0.6"),
            ("data_near_curve_rate", near_rate(fresh, curve), "> 0.97"),
            ("gaussian_near_curve_rate", gaussian_near, "< 0.3"),
            ("near_curve_ratio", near / gaussian_near, ">= 2"),
            ("no_noise_near_curve_rate", near_rate(noiseless, curve), ""),
            ("no_noise_variance_error", variance_error(noiseless, points), "> 0.4"),
            ("runtime_seconds", time.perf_counter() - started, "< 300"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def as_text(point):
    """A point [2] with two decimals."""
    return f"({point[0]:5.2f}, {point[1]:5.2f})"


def show_noisy(x_0, eps, alpha_bars):
    """Print one point at several t, each computed in one jump, all with the same eps."""
    print("\nOne of these points with more and more noise, each time in one jump with the same")
    print(f"eps. x_0 = {as_text(x_0)}, eps = {as_text(eps)}")
    print(" t  alpha_bar  x_t = sqrt(alpha_bar) * x_0 + sqrt(1 - alpha_bar) * eps")
    for t in example_times:
        x_factor = math.sqrt(alpha_bars[t])
        eps_factor = math.sqrt(1 - alpha_bars[t])
        x_t = add_noise(x_0, eps, alpha_bars[t])
        line = f"{t:2d}{alpha_bars[t]:11.4f}  {x_factor:.3f} * {as_text(x_0)}"
        print(f"{line} + {eps_factor:.3f} * {as_text(eps)} = {as_text(x_t)}")


def show_one_step_back(x_0, eps, t, betas, alpha_bars):
    """Print one reverse step in numbers, for a network that guesses the noise exactly."""
    fresh_noise = [0.3, 0.8]  # given, so that the example draws no random number
    x_t = add_noise(x_0, eps, alpha_bars[t])
    mu = reverse_mean(x_t, eps, betas[t], alpha_bars[t])
    sigma = math.sqrt(betas[t])
    result = [mu_i + sigma * noise_i for mu_i, noise_i in zip(mu, fresh_noise)]
    guess_factor = betas[t] / math.sqrt(1 - alpha_bars[t])
    # of the factor of eps in x_t, mu loses guess_factor, and is then rescaled
    left = ((math.sqrt(1 - alpha_bars[t]) - guess_factor) / math.sqrt(1 - betas[t])) ** 2
    print(f"\nOne step back, from t = {t} to {t - 1}, if the guess is exactly eps. The fresh noise")
    print(f"is {as_text(fresh_noise)}, and beta_t is {betas[t]:.2f}:")
    print("mu   = (x_t - beta_t / sqrt(1 - alpha_bar_t) * guess) / sqrt(1 - beta_t)")
    line = f"     = ({as_text(x_t)} - {guess_factor:.3f} * {as_text(eps)})"
    print(f"{line} / {math.sqrt(1 - betas[t]):.3f} = {as_text(mu)}")
    print(f"x_{t - 1:<2} = mu + sqrt(beta_t) * fresh_noise")
    print(f"     = {as_text(mu)} + {sigma:.3f} * {as_text(fresh_noise)} = {as_text(result)}")
    print(f"The variance of the noise in the point is {1 - alpha_bars[t]:.3f} before the step.")
    print(f"{left:.3f} is left in mu, and the fresh noise makes it {left + betas[t]:.3f}.", end=" ")
    print(f"(1 - alpha_bar_{t - 1} is {1 - alpha_bars[t - 1]:.3f}.)")
    print("The network's guess is an average. Then a step also moves the point towards other data.")


def show_guesses(model, x_0, eps, alpha_bars, curve, fresh_losses):
    """Print both guesses for one point, and their mean losses {t: (loss, least)} over others."""
    print(f"\nThe same point after training. The noise in it is {as_text(eps)}. The best guess is")
    print("an average over all data that can become x_t, and needs the curve. Even this is poor")
    print("for a small t: little noise may as well be jitter, or another place on the spiral. The")
    print(
        f"loss is the mean over {num_samples} fresh points, the least loss that of the best guess:"
    )
    print(" t             x_t           guess      best guess    loss  least loss")
    for t, (loss, least_loss) in fresh_losses.items():
        x_t = add_noise(x_0, eps, alpha_bars[t])
        guess = as_text(predict_noise(model, x_t, t))
        best = as_text(best_guess(x_t, curve, alpha_bars[t]))
        print(f"{t:2d}  {as_text(x_t)}  {guess}  {best}{loss:8.3f}{least_loss:12.3f}")


def show_paths(paths):
    """Print the first path in numbers, and all of them as clouds."""
    print(f"\n{len(paths)} points on their way from noise to data. The first of them in numbers,")
    print("then all of them (the more points in a place, the darker):")
    for t in drawn_times:
        print(f"t = {t:2d}  {as_text(paths[0][t])}")
    print()
    draw_clouds({f"t = {t}": [path[t] for path in paths] for t in drawn_times}, 14, 8)
    print()


def show_clouds(clouds, points, curve):
    """Print what is measured of each cloud {title: points}, and its errors against `points`."""
    print("\nBoth coordinates, the errors against the training points, and the rate of points near")
    print("the curve. Fresh points differ from the training points only by luck:")
    print("                    means         variances     mean_error  variance_error   near")
    for title, cloud in clouds.items():
        means = [mean(coordinates(cloud, axis)) for axis in (0, 1)]
        variances = [variance(cloud, axis) for axis in (0, 1)]
        errors = f"{mean_error(cloud, points):10.3f}  {variance_error(cloud, points):14.3f}"
        rate = near_rate(cloud, curve)
        print(f"{title:<16}{as_text(means)}  {as_text(variances)}  {errors}{rate:7.3f}")


def cloud_rows(points, width, height):
    """A cloud as rows of text. What lies further than 2.4 from 0 on an axis is left out."""
    counts = [[0] * width for _ in range(height)]
    for horizontal, vertical in points:
        column = math.floor((horizontal + 2.4) / 4.8 * width)
        row = math.floor((2.4 - vertical) / 4.8 * height)
        if 0 <= column < width and 0 <= row < height:
            counts[row][column] += 1
    even = len(points) / (width * height)  # how many there would be in each place if spread evenly
    rows = []
    for row in counts:
        # " " is for no point, "." for up to `even` points, ":" for up to 2 * even, and so on
        shades = [min(4, math.ceil(count / even)) for count in row]
        rows.append("".join(" .:*#"[shade] for shade in shades))
    return rows


def draw_clouds(clouds, width, height):
    """Print clouds {title: points} side by side."""
    print("  ".join(title.center(width) for title in clouds).rstrip())
    panels = [cloud_rows(points, width, height) for points in clouds.values()]
    for i in range(height):
        print("  ".join(panel[i] for panel in panels).rstrip())


# === REPEATED from microgpt.py, word for word ===
class Value:
    """A number, the numbers it was computed from, and how strongly it depends on each of them.

    Take loss = (a * b + a) ** 2 with a = 2 and b = 3. Every operation makes a new Value. (Below,
    "the gradient by a" means the gradient with respect to a.)

        product = a * b = 6        total = product + a = 8        loss = total ** 2 = 64

    Each of them keeps its inputs, and the derivative of its own operation by each input. These are
    called local gradients:

        product: by a it is b = 3, by b it is a = 2
        total: by product it is 1, by a it is 1
        loss: by total it is 2 * total = 16

    The Values and their inputs form a graph. backward() goes through it from the loss back to a and
    b, and combines the local gradients by the chain rule.
    """

    __slots__ = ("data", "grad", "_inputs", "_local_grads", "_order")
    _created = itertools.count()

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = data  # the number itself
        self.grad = 0.0  # d(loss)/d(self), once loss.backward() has been called
        self._inputs = inputs  # the Values that it was computed from
        self._local_grads = local_grads  # d(self)/d(input), a float for each input
        self._order = next(Value._created)  # 0 for the first Value ever made, then 1, 2, ...

    def __add__(self, other):
        # d(a + b)/da = 1        d(a + b)/db = 1
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        # d(a * b)/da = b        d(a * b)/db = a
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k):
        # d(a ** k)/da = k * a ** (k - 1)        k is a plain number
        local_grad = k * self.data ** (k - 1)
        result = math.pow(self.data, k)  # like **, but an error where ** gives a complex number
        return Value(result, (self,), (local_grad,))

    def exp(self):
        # d(exp(a))/da = exp(a)
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        # d(log(a))/da = 1 / a        a is a probability; log(0) does not exist, so a < 1e-10 counts
        # as 1e-10
        clipped = max(self.data, 1e-10)
        return Value(math.log(clipped), (self,), (1 / clipped,))

    def tanh(self):
        # d(tanh(a))/da = 1 - tanh(a) ** 2
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,))

    def relu(self):
        # d(relu(a))/da = 1 if a > 0, else 0
        local_grad = 1.0 if self.data > 0 else 0.0
        return Value(max(0.0, self.data), (self,), (local_grad,))

    # The other operators are made of those above. The ones that start with r are for a plain
    # number on the left: 2.0 - a calls a.__rsub__(2.0).
    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return self**-1 * other

    def __rpow__(self, base):
        # base ** a = exp(a * log(base))
        return (self * math.log(base)).exp()

    def backward(self):
        """Add d(self)/d(x) to x.grad, for every Value x that self was computed from.

        The chain rule: if x is an input of several nodes of the graph, each of them contributes its
        own gradient times its local gradient by x. In the example of the class, a is an input of
        product and of total:

            total.grad = 16        product.grad = 16 * 1 = 16
            a.grad = 16 * 3 (by way of product) + 16 * 1 (by way of total) = 64

        The graph is used up: a second backward() through a part of it raises AttributeError.
        """
        # Collect self and the Values that it was computed from. The list grows while the loop walks
        # along it. A Value without inputs, such as a parameter, passes nothing on. So it is not in
        # the list, but it gets its gradient like all others.
        nodes = [self]
        seen = {self}
        for node in nodes:
            for x in node._inputs:
                if x._inputs and x not in seen:
                    seen.add(x)
                    nodes.append(x)
        # A node may pass its gradient on only when the gradient is complete, which means that all
        # that was computed from the node has passed its own gradient on. What was computed from a
        # node is newer than the node. So the newest goes first: loss, then total, then product.
        nodes.sort(key=lambda node: node._order, reverse=True)
        self.grad = 1.0  # d(self)/d(self)
        for node in nodes:
            for x, local_grad in zip(node._inputs, node._local_grads):
                x.grad += node.grad * local_grad
            del node._inputs, node._local_grads  # frees their memory, as they are not needed again


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# The engine is that of microgpt and of docs/autograd-interface.md. This script adds
# - tanh(z): the engine's tanh() for a Value, math.tanh() for a float. It stands with the network.


def floats(xs):
    """The numbers in a list of Values, without their history. A list of floats stays as it is."""
    if xs and isinstance(xs[0], Value):
        return [x.data for x in xs]
    return xs


def dot(a, b):
    """a[0] * b[0] + a[1] * b[1] + ..., as one node of the graph.

    Networks consist mostly of dot products. With 16 numbers in a and b, * and + would make 31
    nodes, which all have to be created and walked through. One node is enough, because the
    derivatives are known. With s = dot(a, b):

        ds/da[i] = b[i]        ds/db[i] = a[i]

    Tensor libraries go further in the same direction: there, a whole matrix product is one node.

    a and b are each a list of Values or a list of floats. They may be the same list: then each
    element is an input twice, and backward() adds up both contributions. The result is a Value if
    one of them holds Values, else a float. Raises ValueError if the lengths differ.
    """
    xs = floats(a)
    ys = floats(b)
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(xs, ys, strict=True):
        total += x * y
    inputs = []
    local_grads = []
    if a and isinstance(a[0], Value):
        inputs += a
        local_grads += ys
    if b and isinstance(b[0], Value):
        inputs += b
        local_grads += xs
    return Value(total, inputs, local_grads) if inputs else total


def as_values(model):
    """A copy of a model in which every number is a Value, so that it can be trained."""
    return {name: [[Value(x) for x in row] for row in matrix] for name, matrix in model.items()}


def as_floats(model):
    """A copy of a model in which every number is a float, so that it is frozen and fast."""
    return {name: [floats(row) for row in matrix] for name, matrix in model.items()}


def linear(x, matrix):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out].

    Each row is compared with x: output i is the dot product of row i and x.
    """
    return [dot(row, x) for row in matrix]


def adam_step(params, m, v, step, rate):
    """Move each parameter against its average gradient, in place. Set the gradients back to 0.

    Plain gradient descent is p.data -= rate * p.grad. Adam (Kingma & Ba 2015, algorithm 1) improves
    on it in two ways. It takes a running average m of the gradient, because the gradient of a
    single step is noisy. And it divides by the root of v, a running average of the squared
    gradient. So it does not matter whether all gradients of a parameter are large or small: the
    parameter moves by about `rate` if they agree in sign, and by much less if they do not. m and v
    have one number per parameter, and step counts 1, 2, ...
    """
    # m and v start at 0. After step 1, m is (1 - beta1) * grad, which is too small by this factor.
    m_correction = 1 - beta1**step
    v_correction = 1 - beta2**step
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad
        m_hat = m[i] / m_correction
        v_hat = v[i] / v_correction
        p.data -= rate * m_hat / (math.sqrt(v_hat) + eps_adam)
        p.grad = 0.0


def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


def show_progress(step, num_steps, loss, started):
    """Print step, loss, elapsed and remaining time: on a terminal always in the same line.

    In a pipe or a file, print a line for the first three steps and for every tenth of all steps.
    """
    elapsed = time.perf_counter() - started
    remaining = elapsed * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {elapsed:5.1f} s, {remaining:5.1f} s left"
    if os.isatty(1):
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def show_training(losses, num_steps):
    """Run a generator of losses to its end, and show its progress. Return the losses."""
    started = time.perf_counter()
    seen = []
    for loss in losses:
        seen.append(loss)
        show_progress(len(seen), num_steps, loss, started)
    return seen


def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<8} {bound}".rstrip())


print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`

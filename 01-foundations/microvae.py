"""Move the randomness outside the network, and a gradient can pass through a sample.

The problem: a program sees many examples of something, such as photos of faces, and is to make new
ones. The examples have no labels, and nobody can write down what makes a face. In this script an
example is a point of the plane, and the points lie along a wave.

An autoencoder is half of an answer. It is made of two small neural networks. The encoder turns an
example x into a code z, a list of numbers. Usually z is shorter than x. (Here both have two
numbers, so that codes can be drawn.) The decoder turns z into an example x' again. Both are trained
until x' is nearly x, so z has to hold what matters about x. But this does not yet make new
examples. The encoder may put its codes anywhere, and the decoder has only learned what to make of
these codes. Nothing in training decides what it makes of any other code.

The idea of the variational autoencoder (VAE) is to make the codes fill a known region. Then a
random code from this region can be decoded to a new example. For this, two things are changed.
First, the encoder does not return one code but a cloud of codes. The cloud is a Gaussian, given by
its mean and its variance, and the decoder gets a code z that is drawn from it. Second, each cloud
has a price, called the KL divergence. It is 0 for the standard Gaussian N(0, I), which has the mean
0 and the variance 1 in each dimension. The more a cloud differs from N(0, I), the more it costs.
This price pulls all clouds towards 0, and it keeps them from shrinking to points. So they overlap,
and together they cover the region in which codes from N(0, I) lie. At the same time, x' has to be
near x for every code that may be drawn. So the decoder learns to make nearly x from a whole cloud.

    x -> encode_point -> mean and variance -> draw z -> decode_point -> x'

Training needs a gradient: by how much does the loss change if the mean changes a little? The chain
rule answers this through any chain of formulas. But "draw z" is not a formula of the mean, and so
the chain breaks there. The remedy is to move the randomness out of the chain. First draw eps from
N(0, I), one number per dimension, on which the parameters have no influence. Then compute
z = mean + std * eps, where the standard deviation std is the root of the variance. This z is
distributed as before, and it is a formula. Its derivative by the mean is 1, and that by std is eps.

    1. encode_point: a network turns x into its cloud, given by the mean mu and by log_var, the
       logarithm of the variance.
    2. reparameterize: draw eps from N(0, I), compute z = mu + std * eps. (See the first output.)
    3. decode_point: another network turns z into x'.
    4. loss_terms: the reconstruction loss says how far x' is from x. It takes x to be x' plus
       Gaussian noise. The KL divergence says how far the cloud is from N(0, I). The loss is the
       first plus beta times the second.
    5. train: take a few points, compute their loss, and change the parameters of both networks
       against the gradient. Repeat.
    6. sample_point: to make a new point, leave out the encoder. Draw z from N(0, I), decode it, and
       add such noise.
       interpolate: to go from one point to another, decode codes between the means of their clouds.
    7. score_gradient: there is another way to a gradient, which needs no derivative through
       step 2. Compare how much the two gradients vary from draw to draw.

The VAE is by Kingma & Welling (2014), whose equation numbers are used. Rezende et al. (2014) found
it at the same time. The weight beta is by Higgins et al. (2017). In production x is an image, and
the networks are deep. Stable Diffusion turns codes into images by the decoder of such an
autoencoder, but its codes come from a diffusion model and not from N(0, I) (Rombach et al. 2022).
"""

import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS ===
num_train = 1000  # points to train on
num_heldout = 1000  # other points; all results are measured on them or on some of them
data_noise = 0.05  # standard deviation of the points around the wave, in each coordinate
n_hidden = 24  # numbers in the hidden layer of the encoder, and of the decoder
z_dim = 2  # numbers in a code; much of what measures and prints needs two
sigma = 0.12  # x is taken to be x' plus noise of this standard deviation; fixed, see THE LOSS
betas = (0.0, 1.0, 5.0)  # weights of the KL divergence; one model is trained with each
main_beta = 1.0  # the weight of the original VAE; this model is looked at more closely
num_steps = 3000  # training steps for each beta
batch_size = 4  # points per step
learning_rate = 0.02  # how far a step moves a parameter at first; it falls linearly to 0
num_eval_draws = 10  # codes that are drawn for each held-out point to measure the loss
num_bound_draws = 100  # the same where ELBO is compared with log p(x), on fewer points
num_samples = 1000  # points that are made by each model, and in each other way
num_paths = 50  # pairs of held-out points to interpolate between
path_length = 10  # points on such a path, with both ends
num_probes = 20  # held-out points at which two kinds of gradient are compared
num_grad_draws = 300  # gradients of each kind at each of these points
example = 333  # the number of the held-out point that is followed in the output
# the following are read by the code that is repeated from microgpt, near the end
beta1 = 0.9  # Adam's memory of the gradient; unrelated to the betas above
beta2 = 0.999  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite; unrelated to the eps of step 2

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value(number) is a number that remembers how it was computed. loss.backward() adds the
#   derivative d(loss)/d(value) to the .grad of every Value that the loss was computed from.
# - A model is {name: matrix}, and a matrix is a list of rows. Its numbers are floats, which are
#   fast, or Values, which can be trained. as_values() and as_floats() copy it into the other kind.
#   All functions of the model below work on both kinds.
# - dot() is the dot product of two lists. exp() is the exponential function, of a Value or float.
# - relu() makes negative numbers 0. Without it between them, two layers would do no more than one.
# - adam_step(params, m, v, step, rate) moves each Value in params against its gradient, mostly by
#   less than `rate`. Then it sets the gradients to 0. The lists m and v are its memory of them.
# - show_training(losses, n) runs a training of n steps, which yields losses, and prints some.


# === THE DATA: points along a wave ===
def make_data(n, noise):
    """n points around the wave up = 0.7 * sin(2 * right), in order along the wave.

    A point is the list x = [right, up]. Each coordinate has noise of this standard deviation.
    """
    places = sorted(random.uniform(-1.5, 1.5) for _ in range(n))
    points = []
    for place in places:
        right = random.gauss(place, noise)
        up = random.gauss(0.7 * math.sin(2 * place), noise)
        points.append([right, up])
    return points


# === THE MODEL: from a point to a cloud of codes, and from a code to a point ===
def init_model():
    """The parameters {name: matrix}, random floats near 0.

        encoder_hidden   [n_hidden][2 + 1]       from a point to the hidden layer
        encoder_mu       [z_dim][n_hidden + 1]   from there to the mean of the cloud
        encoder_log_var  [z_dim][n_hidden + 1]   and to the logarithm of its variance
        decoder_hidden   [n_hidden][z_dim + 1]   from a code to the hidden layer
        decoder_out      [2][n_hidden + 1]       from there to a point

    The + 1 is the bias, the last number of each row. The random numbers are smaller in a layer with
    more inputs, because more terms are added up in it.
    """
    shapes = {
        "encoder_hidden": (n_hidden, 2),
        "encoder_mu": (z_dim, n_hidden),
        "encoder_log_var": (z_dim, n_hidden),
        "decoder_hidden": (n_hidden, z_dim),
        "decoder_out": (2, n_hidden),
    }
    model = {}
    for name, (n_out, n_in) in shapes.items():
        std = 0.5 / math.sqrt(n_in)
        model[name] = [[random.gauss(0, std) for _ in range(n_in + 1)] for _ in range(n_out)]
    return model


def layer(inputs, matrix):
    """One layer of a network: from inputs [n_in] to [n_out], with a matrix [n_out][n_in + 1].

    Each row gives one output: the dot product of its weights and the inputs, plus its bias. The row
    [3, -1, 0.5] with the inputs [2, 4] gives 3 * 2 - 1 * 4 + 0.5 = 2.5.
    """
    outputs = []
    for row in matrix:
        outputs.append(dot(row[:-1], inputs) + row[-1])  # the bias is the last number of the row
    return outputs


def encode_point(model, x):
    """The cloud of codes of a point x [2]: its mean mu [z_dim], and log_var [z_dim].

    The cloud is the Gaussian with the mean mu and the variance exp(log_var) in each dimension. It
    is written q(z|x): the distribution of the code z, given x.

    Mean and variance come from the same hidden layer by two matrices, called two heads. Why is the
    second one the logarithm of the variance? A variance has to be positive, and the output of a
    layer can be any number. exp() of any number is positive. Where log_var is 0, the variance is 1.
    """
    hidden = [relu(u) for u in layer(x, model["encoder_hidden"])]
    mu = layer(hidden, model["encoder_mu"])
    log_var = layer(hidden, model["encoder_log_var"])
    return mu, log_var


def decode_point(model, z):
    """The point x' [2] that a code z [z_dim] stands for."""
    hidden = [relu(u) for u in layer(z, model["decoder_hidden"])]
    return layer(hidden, model["decoder_out"])


# === THE TRICK: a sample that is a formula of the mean and the variance ===
def draw_normal():
    """A list [z_dim] of random numbers from N(0, I): mean 0, variance 1, each drawn by itself."""
    return [random.gauss(0, 1) for _ in range(z_dim)]


def reparameterize(mu, log_var, eps):
    """A code [z_dim] from the cloud with mean mu and variance exp(log_var), if eps is from N(0, I).

    A number drawn by random.gauss(mu.data, std.data) is a plain number. It does not remember mu, so
    backward() would stop there. Here z is a formula of mu and std. With std = exp(0.5 * log_var),

        dz/dmu = 1        dz/dstd = eps        dstd/dlog_var = 0.5 * std

    and backward() goes on to the encoder. Is the derivative for one eps of any use? We want that of
    the average cost of a code by mu. This average can be written in two ways (section 2.4):

        average of cost(z) over z from the cloud                    mu changes how probable z is
        average of cost(mu + std * eps) over eps from N(0, I)       mu changes z, for each eps

    In the second form, each eps keeps its probability if mu changes. So the derivative of the
    average is the average of the derivatives, and the derivative for one eps is right on average.
    Training takes many small steps, each with another eps, and so the errors average out.
    """
    z = []
    for mu_i, log_var_i, eps_i in zip(mu, log_var, eps, strict=True):
        std_i = exp(0.5 * log_var_i)  # the root of exp(log_var)
        z.append(mu_i + std_i * eps_i)
    return z


# === THE LOSS: bring x back, from a code that tells no more than it must ===
#
# A VAE is a recipe for making points. Draw a code z from N(0, I), which is called the prior p(z).
# Decode it to x'. Then draw a point x from the Gaussian around x' with standard deviation sigma in
# each coordinate. This Gaussian is p(x|z). The density with which the recipe makes a given point is
# called p(x). (A density is probability per area. It can be above 1, and its logarithm above 0.) It
# is the average of p(x|z) over all codes z of the prior. The recipe is good if p(x) is large for
# real points x, so we want log p(x) to be large.
#
# One could estimate this average with some codes from the prior. But most of them are decoded to
# something far from x and add nearly nothing. The encoder says which codes are worth a look: those
# of the cloud q(z|x). With them, we get something that is at most log p(x), and that is easy to
# estimate:
#
#     log p(x) >= (average of log p(x|z) over z from q(z|x)) - KL(q(z|x) || p(z))           (eq. 3)
#
# The right side is called the evidence lower bound, ELBO. In it, the KL divergence is
#
#     KL(q || p) = average of log(q / p) over z from q = sum over all z of q * log(q / p)
#
# (For densities the sum is an integral, but the same rules hold.) It is 0 if q = p. It is never
# negative, because log t <= t - 1: the straight line t - 1 touches log t at t = 1 and lies above it
# elsewhere. Put t = p / q, and take averages over z from q:
#
#     average of p / q = sum of q * p / q = sum of p = 1
#     average of log(p / q) <= (average of p / q) - 1 = 0
#     KL(q || p) = average of log(q / p) = -(average of log(p / q)) >= 0
#
# To see why ELBO is at most log p(x), suppose that the recipe has made x, and ask which code it has
# used. How probable each code is, given x, is written p(z|x). Bayes' rule and its logarithm say
#
#     p(z|x) = p(x|z) * p(z) / p(x)
#     log p(z|x) = log p(x|z) + log p(z) - log p(x)
#
# Subtract the second line from log q(z|x), and put log p(z) next to log q(z|x):
#
#     log q(z|x) - log p(z|x) = log q(z|x) - log p(x|z) - log p(z) + log p(x)
#                             = (log q(z|x) - log p(z)) - log p(x|z) + log p(x)
#
# Take the average of each term over z from q(z|x). log p(x) stays, as it does not depend on z:
#
#     KL(q(z|x) || p(z|x)) = KL(q(z|x) || p(z)) - (average of log p(x|z)) + log p(x)
#
# The first two terms on the right are ELBO with the other sign, so this says (eq. 1)
#
#     log p(x) = ELBO + KL(q(z|x) || p(z|x))
#
# The last term is not negative, so ELBO is at most log p(x). Training with beta 1 makes -ELBO
# small. p(x|z) is a Gaussian with the standard deviation sigma in each of two dimensions, so
#
#     -log p(x|z) = |x - x'|^2 / (2 sigma^2) + log(2 pi sigma^2)
#
# Logarithms are natural, and their unit is the nat. sigma says how exactly x has to come back: an
# error of 0.17 costs 0.17^2 / (2 * 0.12^2) = 1 nat. The last term is -2.403 nats. No parameter
# changes it, so the loss leaves it out. Without it, -ELBO is
#
#     (average of |x - x'|^2 / (2 sigma^2) over z from q(z|x)) + KL(q(z|x) || p(z))
#
# These are the two terms of the loss: bring x back, and keep the cloud near N(0, I). The first
# alone (beta = 0) makes an autoencoder, whose clouds may lie anywhere and shrink nearly to points:
# half of their stds end below 0.011. The second alone would make every cloud N(0, I), and no code
# would tell anything about x. The weight beta of the second term says which one counts more.
#
# sigma and beta are one knob. The loss is |x - x'|^2 / (2 sigma^2) + beta * KL. Divided by beta, it
# is |x - x'|^2 / (2 beta sigma^2) + KL, which is the loss with beta 1 and the standard deviation
# sigma * sqrt(beta). So beta 5 trains the VAE for 0.12 * sqrt(5) = 0.27. sigma = 0.12 was found by
# trial. With 0.05, the noise of the data, training is less reliable: the mean distance of samples
# to the data was 0.03 to 0.13 in nine trainings, and 0.046 to 0.054 with 0.12.


def reconstruction_loss(x, decoded):
    """|x - decoded|^2 / (2 sigma^2), for two points [2]. It is -log p(x|z) without its last term.

    If one code has to stand for several x, the loss is smallest where it is decoded to their mean.
    The mean of several images is a blurred image, and images of VAEs are known to be blurred.
    """
    error = [decoded_i - x_i for decoded_i, x_i in zip(decoded, x, strict=True)]
    return dot(error, error) * (0.5 / sigma**2)


def kl_divergence(mu, log_var):
    """KL(q(z|x) || N(0, I)) of the cloud with mean mu and log-variance log_var, both [z_dim].

    It is a sum over the dimensions (appendix B has the formula, with the opposite sign). In one
    dimension, q is the Gaussian with mean mu and variance std^2 = exp(log_var), and p is N(0, 1):

        log q(z) = -0.5 * (log(2 pi) + log_var + (z - mu)^2 / std^2)
        log p(z) = -0.5 * (log(2 pi) + z^2)

    On average over z from q, z - mu is 0 and (z - mu)^2 is std^2. So (z - mu)^2 / std^2 is 1 on
    average. And z is mu + (z - mu), so

        z^2 = mu^2 + 2 * mu * (z - mu) + (z - mu)^2        on average: mu^2 + 0 + std^2

    So log q(z) - log p(z) averages to

        KL = -0.5 * (log_var + 1) + 0.5 * (mu^2 + std^2) = 0.5 * (mu^2 + std^2 - 1 - log_var)

        mu    std    KL
         0     1     0        the standard Gaussian costs nothing
         2     1     2        away from 0
         0    0.1    1.81     narrow, so the code tells more exactly which x it came from
         2    0.1    3.81     both

    Why N(0, I)? Because sample_point() draws its codes from it. The decoder has to be trained on
    codes from the same region. Other distributions would do, but few have such a simple formula.
    """
    total = 0.0
    for mu_i, log_var_i in zip(mu, log_var, strict=True):
        total = total + 0.5 * (mu_i * mu_i + exp(log_var_i) - 1.0 - log_var_i)
    return total


def loss_terms(model, x, eps):
    """The reconstruction loss and the KL divergence of a point x [2], for one code of its cloud.

    The reconstruction loss should be averaged over all codes of the cloud. The loss of one code,
    that of eps [z_dim], is right on average. Training draws a new eps whenever it meets a point.
    """
    mu, log_var = encode_point(model, x)
    z = reparameterize(mu, log_var, eps)
    decoded = decode_point(model, z)
    return reconstruction_loss(x, decoded), kl_divergence(mu, log_var)


def train(model, points, beta):
    """Train a model of Values in place. Yield the mean loss of each batch, before its step."""
    params = [p for matrix in model.values() for row in matrix for p in row]  # in one list
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step in range(num_steps):
        loss = 0.0
        for x in random.sample(points, batch_size):
            reconstruction, kl = loss_terms(model, x, draw_normal())
            loss = loss + (reconstruction + beta * kl) * (1 / batch_size)
        loss.backward()  # goes back through decoder, z and encoder
        rate = learning_rate * (1 - step / num_steps)  # falls to 0
        adam_step(params, m, v, step + 1, rate)
        yield loss.data


# === USING IT: make new points, and go from one point to another ===
def sample_point(model):
    """Make a new point [2]: draw z from the prior N(0, I), then x from p(x|z).

    Often only decode_point(model, z) is shown, the mean of p(x|z). That looks better than what the
    model says about points, which has the noise too. So samples have it here. They lie wider than
    real points, because sigma is larger than data_noise.
    """
    decoded = decode_point(model, draw_normal())
    return [random.gauss(center, sigma) for center in decoded]


def between(start, end, share):
    """The place between two lists of numbers: start for share = 0, end for share = 1."""
    return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]


def straight_path(start, end):
    """A list of path_length places, at equal distances on the straight line from start to end."""
    return [between(start, end, i / (path_length - 1)) for i in range(path_length)]


def interpolate(model, first, last):
    """A path of points from one point to another, by way of the codes between their codes.

    The code of a point is taken to be the mean of its cloud. A straight line between two points of
    the wave leaves it. But where clouds fill the region, the codes between two codes lie in other
    clouds, and are decoded to points near the wave. (With beta 1, only one number of z counts
    in this run. One is enough, because the wave is a line.)
    """
    start, _ = encode_point(model, first)
    end, _ = encode_point(model, last)
    return [decode_point(model, z) for z in straight_path(start, end)]


# === THE RIVAL: a gradient from the values of the loss alone ===
#
# Let cost(z) be the reconstruction loss of a point, as a function of its code z. We want the
# gradient of the average of cost(z) over z from q(z|x), the sum of q(z|x) * cost(z) over all z. In
# THE TRICK, eps was fixed, and z moved with mu. Here each z is fixed, and its probability q changes
# with mu. So only q has a derivative:
#
#     d(average)/dmu = sum of dq/dmu * cost
#                    = sum of q * (dq/dmu / q) * cost
#                    = sum of q * dlog(q)/dmu * cost          because dlog(q)/dmu = dq/dmu / q
#                    = average of dlog(q)/dmu * cost
#
# So cost(z) * dlog(q)/dmu is an estimate of the gradient, for any z drawn from q. dlog(q)/dmu is
# called the score function, and the method is also known as REINFORCE (Williams 1992). It needs no
# derivative of the cost, and no formula for z. So it also works where z is a word and not a number,
# and where the cost is a reward that somebody gives. But it multiplies by the whole cost. Add 100
# to every cost, and the gradient of the average is the same, but the estimate is dominated by
# 100 * dlog(q)/dmu. This term is 0 only on average:
#
#     average of dlog(q)/dmu = sum of dq/dmu = d(sum of q)/dmu = 0           because sum of q = 1
#
# So one may subtract a number that does not depend on z from the cost, and the estimate stays right
# on average. This number is called the baseline. A usual choice is the average cost of the cloud.
# It moves the costs to around 0, but to find it takes more evaluations of the cost.
#
# log(q) is a sum with one term for each number z of the code. From kl_divergence(), this term is
# -0.5 * (log(2 pi) + log_var + (z - mu)^2 / exp(log_var)). With z fixed, and eps = (z - mu) / std,
#
#     dlog(q)/dmu = -0.5 * 2 * (z - mu) * (-1) / std^2 = (z - mu) / std^2 = eps / std
#     dlog(q)/dlog_var = -0.5 * (1 - (z - mu)^2 / exp(log_var)) = 0.5 * (eps^2 - 1)
#
# In the second line, the derivative of 1 / exp(log_var) by log_var is -1 / exp(log_var).
#
# Both estimates are right on average. (After training, the mean derivative by log_var[1] at all
# probes, with 300 draws at each, was 0.50 +- 0.01 by THE TRICK and 0.50 +- 0.03 by the score
# function.) The larger the variance of an estimate is, the more draws of it have to be averaged
# for a gradient that is as exact.


def reparam_gradient(cost, mu, log_var, eps):
    """An estimate of the gradient of the average of cost(z), by mu and log_var [2 * z_dim]."""
    mu_values = [Value(number) for number in mu]
    log_var_values = [Value(number) for number in log_var]
    z = reparameterize(mu_values, log_var_values, eps)
    cost(z).backward()  # uses the derivative of the cost, and goes back through z = mu + std * eps
    return [value.grad for value in mu_values + log_var_values]


def score_gradient(cost, mu, log_var, eps):
    """Another estimate of the same gradient [2 * z_dim]: cost(z) times the score function."""
    z = reparameterize(mu, log_var, eps)  # only draws z: no derivative goes through it
    cost_of_z = cost(z)
    by_mu = [eps_i / math.exp(0.5 * log_var_i) for eps_i, log_var_i in zip(eps, log_var)]
    by_log_var = [0.5 * (eps_i * eps_i - 1) for eps_i in eps]
    return [cost_of_z * score for score in by_mu + by_log_var]


def cost_of_code(model, x):
    """The function cost(z): the reconstruction loss of the point x if its code is z."""
    return lambda z: reconstruction_loss(x, decode_point(model, z))


def minus_baseline(cost, mu, log_var):
    """The function cost(z) - baseline. The baseline is the mean cost of some codes of the cloud."""
    codes = [reparameterize(mu, log_var, draw_normal()) for _ in range(num_grad_draws)]
    baseline = mean([cost(z) for z in codes])
    return lambda z: cost(z) - baseline


def gradient_variance(estimate, model, points, with_baseline=False):
    """How much an estimate of the gradient varies from draw to draw of eps.

    `estimate` is reparam_gradient or score_gradient. Returns the mean of the variances of all
    2 * z_dim numbers of a gradient, at all points. After training, with the seed of this run, 97 %
    of it or more come from mu[1]: the decoder uses z[1] almost alone, and clouds are narrow in it.
    """
    variances = []
    for x in points:
        cost = cost_of_code(model, x)
        mu, log_var = encode_point(model, x)
        if with_baseline:
            cost = minus_baseline(cost, mu, log_var)
        gradients = [estimate(cost, mu, log_var, draw_normal()) for _ in range(num_grad_draws)]
        for i in range(len(gradients[0])):
            variances.append(variance([gradient[i] for gradient in gradients]))
    return mean(variances)


def compare_gradients(model, points):
    """The variances of the estimates: {"reparam", "score", "score_with_baseline"}.

    They are measured at num_probes of the points, which are evenly spread over the list, and are
    rough: with other draws their ratios changed by up to 45 %. Their order was the same for
    five seeds. None of this says whether a VAE can be trained with the score function.
    """
    probes = points[:: len(points) // num_probes]
    return {
        "reparam": gradient_variance(reparam_gradient, model, probes),
        "score": gradient_variance(score_gradient, model, probes),
        "score_with_baseline": gradient_variance(score_gradient, model, probes, True),
    }


# === HOW GOOD IT IS: on points that no training step has seen ===
def evaluate(model, points, num_draws):
    """Means per point: {"reconstruction", "kls": [z_dim], the KL of each dimension, "kl", "elbo"}.

    Where the KL of a dimension is 0, the cloud of every point is N(0, 1) in it, so it tells nothing
    about the point. This is called posterior collapse: p(z|x) is the posterior, and q(z|x) stands
    for it. It is welcome in a dimension that is not needed. If all collapse, the code is useless.

    ELBO has the KL with the weight 1 and sigma = 0.12, whatever the beta. So it is at most log p(x)
    for each model. But beta 5 was trained for sigma = 0.27 (see THE LOSS). With this sigma in both,
    its ELBO is -1.08, which is nearly its log p(x), -1.06. So -1.53, its ELBO with sigma = 0.12,
    does not say that its training went wrong.
    """
    reconstructions = []
    kl_lists = [[] for _ in range(z_dim)]  # one list for each dimension
    for x in points:
        cost = cost_of_code(model, x)
        mu, log_var = encode_point(model, x)
        for i in range(z_dim):
            kl_lists[i].append(kl_divergence([mu[i]], [log_var[i]]))
        for _ in range(num_draws):
            reconstructions.append(cost(reparameterize(mu, log_var, draw_normal())))
    reconstruction = mean(reconstructions)
    kls = [mean(kl_list) for kl_list in kl_lists]
    kl = math.fsum(kls)
    elbo = -reconstruction - math.log(2 * math.pi * sigma**2) - kl
    return {"reconstruction": reconstruction, "kls": kls, "kl": kl, "elbo": elbo}


def log_evidence(model, points):
    """The mean of log p(x) over the points, computed without the encoder.

    p(x) is the average of p(x|z) over codes z of the prior. Here a code has only two numbers, so
    the average can be taken over a grid of codes from -6 to 6, each weighted by the prior. Where
    codes have many numbers, one weights codes from q(z|x) (importance sampling). To compare: if the
    recipe is the wave itself with noise of 0.12, the mean log p(x) is -0.30. With noise of 0.05, as
    in the data, it is 0.19.
    """
    codes = [[i / 8, j / 8] for i in range(-48, 49) for j in range(-48, 49)]
    prior = [math.exp(-0.5 * dot(z, z)) for z in codes]  # its constant factor cancels below
    total_prior = math.fsum(prior)
    decoded = [decode_point(model, z) for z in codes]
    log_probs = []
    for x in points:
        terms = [p * math.exp(-reconstruction_loss(x, d)) for p, d in zip(prior, decoded)]
        p_x = math.fsum(terms) / total_prior / (2 * math.pi * sigma**2)
        log_probs.append(math.log(max(p_x, 1e-300)))  # math.log(0) would be an error
    return mean(log_probs)


def bound_and_evidence(model, points):
    """ELBO and log p(x), both averaged over the same tenth of the points: {"elbo", "log_p"}."""
    some = points[::10]
    elbo = evaluate(model, some, num_bound_draws)["elbo"]
    return {"elbo": elbo, "log_p": log_evidence(model, some)}


def distance(a, b):
    """The distance of two points."""
    return math.sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]))


def mean_nearest(points, others):
    """The distance of a point to the nearest of the others, on average over the points."""
    return mean([min([distance(point, other) for other in others]) for point in points])


def judge_samples(samples, heldout):
    """Mean distances to the nearest point, in both directions: {"distance", "coverage"}.

    "distance" goes from samples to held-out points. One good point, repeated, is enough to make it
    small. "coverage" goes from held-out points to samples. Points spread densely over the whole
    plane are enough to make it small. So both have to be small.
    """
    return {"distance": mean_nearest(samples, heldout), "coverage": mean_nearest(heldout, samples)}


def variance(numbers):
    """The mean squared difference from the mean."""
    center = mean(numbers)
    return mean([(number - center) * (number - center) for number in numbers])


def gaussian_samples(points, n):
    """n points from the Gaussian with the mean and the covariance of the given points.

    It is the simplest way to make points that look similar from afar, and it cannot bend.
    """
    rights = [right for right, _ in points]
    ups = [up for _, up in points]
    mean_right = mean(rights)
    mean_up = mean(ups)
    std_right = math.sqrt(variance(rights))
    covariance = mean([(right - mean_right) * (up - mean_up) for right, up in points])
    # `up` is slope * `right` plus its own noise. The covariance of `right` and slope * `right` is
    # slope * variance(rights), so this slope gives the right one. The variance of slope * `right`
    # is slope^2 * variance(rights) = slope * covariance. The noise has to add the rest.
    slope = covariance / variance(rights)
    std_around_line = math.sqrt(variance(ups) - slope * covariance)
    samples = []
    for _ in range(n):
        right = random.gauss(mean_right, std_right)
        up = random.gauss(mean_up + slope * (right - mean_right), std_around_line)
        samples.append([right, up])
    return samples


def step_ratio(path):
    """The longest step of a path, divided by its mean step. It is 1 if all steps are equal."""
    steps = [distance(a, b) for a, b in itertools.pairwise(path)]
    return max(steps) / mean(steps)


def judge_paths(connect, heldout):
    """Means over num_paths paths connect(left, right): {"step_ratio", "distance", "coverage"}.

    The held-out points are in the order of the wave. Paths lead from the first to the last, from
    the second to the last but one, and so on. The distances are those of judge_samples() for the
    points of all paths. Again both have to be small: a path that stays in one place has a small
    "distance". Even steps prove little: a straight line has them.
    """
    step_ratios = []
    on_paths = []
    for i in range(num_paths):
        path = connect(heldout[i], heldout[-1 - i])
        step_ratios.append(step_ratio(path))
        on_paths += path
    return {"step_ratio": mean(step_ratios), **judge_samples(on_paths, heldout)}


def make_points(models, points):
    """Points made by each of {title: model}, and in other ways to compare: {title: points}."""
    made = {}
    for title, model in models.items():
        made[title] = [sample_point(model) for _ in range(num_samples)]
    made["a Gaussian"] = gaussian_samples(points, num_samples)
    made[f"the wave with noise {sigma}"] = make_data(num_samples, sigma)
    made[f"the wave with noise {data_noise}"] = make_data(num_samples, data_noise)
    return made


def compare_paths(models, heldout):
    """What judge_paths() finds for the codes of {title: model}, and for straight lines."""
    paths = {}
    for title, model in models.items():
        paths[title] = judge_paths(functools.partial(interpolate, model), heldout)
    paths["straight lines"] = judge_paths(straight_path, heldout)
    return paths


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    points = make_data(num_train, data_noise)
    heldout = make_data(num_heldout, data_noise)
    untrained = init_model()
    show_point("One held-out point before training", untrained, heldout[example])

    # One model per beta. All start with the same parameters.
    models = {}
    for beta in betas:
        print(f"\nTraining with beta {beta}, {batch_size} points per step:")
        model = as_values(untrained)
        losses = train(model, points, beta)
        if beta == main_beta:
            show_training(losses, num_steps)
        else:
            list(losses)  # trains without showing the losses
        models[beta] = as_floats(model)
    vae = models[main_beta]
    show_point(f"\nThe same point after training with beta {main_beta:g}", vae, heldout[example])
    tried = {"the VAE": vae, "no KL (beta 0)": models[0.0], "before training": untrained}

    # How well do points come back, and how much does each number of a code tell about them?
    first = evaluate(untrained, heldout, num_eval_draws)
    figures = {beta: evaluate(model, heldout, num_eval_draws) for beta, model in models.items()}
    show_figures({"untrained": first, **figures})

    # Is what the VAE makes like the held-out points? And what of it is due to the KL divergence?
    made = make_points(tried, points)
    distances = {title: judge_samples(samples, heldout) for title, samples in made.items()}
    gaussian = distances["a Gaussian"]["distance"]
    draw_planes(models, heldout, made["the VAE"])
    paths = compare_paths(tried, heldout)
    show_distances(distances, paths)

    # Which gradient varies less from draw to draw? And how far is ELBO below log p(x)?
    variances = compare_gradients(vae, heldout)
    before = compare_gradients(untrained, heldout)
    show_variances({"untrained": before, "trained": variances})
    show_evidence({beta: bound_and_evidence(model, heldout) for beta, model in models.items()})

    last = figures[main_beta]
    rows = [
        ("recon_loss_first", first["reconstruction"], ""),
        ("recon_loss_last", last["reconstruction"], "< 1"),
        ("elbo_first", first["elbo"], ""),
        ("elbo_last", last["elbo"], "> -0.7"),
        ("kl", last["kl"], "0.1 to 50"),
        ("kl_low_beta", figures[0.0]["kl"], f"> {last['kl'] + 0.5:.4f}"),
        ("kl_high_beta", figures[5.0]["kl"], f"< {last['kl'] - 0.5:.4f}"),
        ("sample_distance", distances["the VAE"]["distance"], f"< {gaussian / 3:.4f}"),
        ("gaussian_distance", gaussian, ""),
        ("coverage_distance", distances["the VAE"]["coverage"], "< 0.04"),
        ("path_coverage", paths["the VAE"]["coverage"], "< 0.1"),
        ("score_to_reparam_variance", variances["score"] / variances["reparam"], "> 2"),
        ("baseline_to_reparam", variances["score_with_baseline"] / variances["reparam"], "> 1"),
        ("runtime_seconds", time.perf_counter() - started, "< 240"),
    ]
    print_results(rows)


# === DRAWING: nothing below is needed to understand the algorithm ===
def as_text(numbers):
    """Some numbers as text."""
    return "".join(f"{number:8.3f}" for number in numbers)


def show_point(title, model, x):
    """Print how the loss of one point comes about, and its derivatives by mu. eps is given."""
    eps = [1.0, -0.5]
    mu, log_var = encode_point(model, x)
    std = [exp(0.5 * number) for number in log_var]
    z = reparameterize(mu, log_var, eps)
    reconstruction, kl = loss_terms(model, x, eps)
    print(f"{title}. A point and a code have two numbers each:")
    print(f"x, the point                        {as_text(x)}")
    print(f"mu, the mean of its cloud           {as_text(mu)}")
    print(f"std, the root of the variance       {as_text(std)}")
    print(f"eps, given for this example         {as_text(eps)}")
    print(f"z = mu + std * eps                  {as_text(z)}")
    print(f"x', the decoded z                   {as_text(decode_point(model, z))}")
    print(f"reconstruction loss {reconstruction:.3f} + beta {main_beta:g} * KL", end=" ")
    print(f"divergence {kl:.3f} = loss {reconstruction + main_beta * kl:.3f}")

    cost = cost_of_code(model, x)
    gradient = reparam_gradient(cost, mu, log_var, eps)
    slopes = []
    for moved in ([mu[0] + 1e-6, mu[1]], [mu[0], mu[1] + 1e-6]):
        slopes.append((cost(reparameterize(moved, log_var, eps)) - cost(z)) / 1e-6)
    print("The derivatives of the reconstruction loss by the two numbers of mu, in two ways:")
    print(f"by backward(), through z            {as_text(gradient[:2])}")
    print(f"by moving mu, with the same eps     {as_text(slopes)}")


def show_figures(figures):
    """Print what evaluate() found of the untrained model and of the model of each beta."""
    print("\nMeans over held-out points, in nats. KL is the sum of its parts for z[0] and z[1],")
    print("the two numbers of a code. Where a part is 0.000, its number tells next to nothing.")
    print(f"ELBO is {-math.log(2 * math.pi * sigma**2):.3f} - reconstruction - KL.")
    print("beta        reconstruction      KL     ELBO     KL of z[0]   KL of z[1]")
    for title, row in figures.items():
        line = f"{title:<12}{row['reconstruction']:14.3f}{row['kl']:8.3f}{row['elbo']:9.3f}"
        print(f"{line}{row['kls'][0]:15.3f}{row['kls'][1]:13.3f}")


def show_evidence(figures):
    """Print what bound_and_evidence() found of the model of each beta."""
    print("\nELBO is at most log p(x). Both are for every tenth held-out point. ELBO averages over")
    print(f"{num_bound_draws} codes for each, and log p(x) is computed on a grid of codes:")
    print("beta           ELBO    log p(x)")
    for beta, row in figures.items():
        print(f"{beta:<10}{row['elbo']:9.3f}{row['log_p']:12.3f}")


def show_distances(distances, paths):
    """Print what judge_samples() and judge_paths() found."""
    print("\nMean distance to the nearest point, between held-out points and what was made.")
    print(f"Samples of models have noise {sigma}: compare them with the wave with that noise.")
    print("Before training, every code is decoded to nearly (0, 0), which lies on the wave:")
    print("                            from made to held-out   from held-out to made")
    for title, row in distances.items():
        print(f"{title:<28}{row['distance']:14.3f}{row['coverage']:24.3f}")
    print("Without the KL, codes are drawn where no cloud lies, and samples are far off.")
    print(f"\n{num_paths} paths from the left end of the wave to the right end, without noise:")
    print(f"{'':28}from path to held-out   from held-out to path   longest / mean step")
    for title, row in paths.items():
        line = f"{title:<28}{row['distance']:14.3f}{row['coverage']:24.3f}"
        print(f"{line}{row['step_ratio']:24.2f}")


def show_variances(variances):
    """Print what compare_gradients() found, untrained and trained."""
    print("\nVariance of the gradients of the reconstruction loss by mu and log_var. In brackets:")
    print("how many times that of the reparameterized one. Before training, the losses are large,")
    print("and the score function is multiplied by them, or by what is left after the baseline:")
    print("            reparameterized   score function      with baseline")
    for title, row in variances.items():
        line = f"{title:<12}{row['reparam']:15.0f}"
        for kind in ("score", "score_with_baseline"):
            line += f"{row[kind]:12.0f} ({row[kind] / row['reparam']:3.0f})"
        print(line)


def draw_plane(title, points, marks, limits, width=31, height=11):
    """A picture of points of the plane as lines of text. `limits` are the largest [right, up]."""
    max_right, max_up = limits
    grid = [[" "] * width for _ in range(height)]
    for (right, up), mark in zip(points, marks):
        column = math.floor((1 + right / max_right) / 2 * width)
        row = math.floor((1 - up / max_up) / 2 * height)
        if 0 <= column < width and 0 <= row < height:
            grid[row][column] = mark
    return [title.ljust(width), *["".join(row) for row in grid]]


def print_side_by_side(pictures):
    """Print pictures of equal size beside each other."""
    for parts in zip(*pictures):
        print(" | ".join(parts).rstrip())


def draw_planes(models, heldout, samples):
    """Draw a code of each point for each model, and then points, samples and a path."""
    n = len(heldout)
    letter = [chr(ord("a") + 26 * i // n) for i in range(n)]  # from a at the left end to z
    edge = 4.5  # the drawings of codes reach from -edge to edge in both directions
    print(f"\nA code drawn from the cloud of each held-out point, both numbers within {edge} of 0.")
    print("A letter tells the place on the wave. Where several codes meet, the last one is drawn.")
    pictures = []
    for beta, model in models.items():
        codes = [reparameterize(*encode_point(model, x), draw_normal()) for x in heldout]
        outside = sum(max(abs(z[0]), abs(z[1])) > edge for z in codes)
        title = f"beta {beta}, {outside} are outside"
        pictures.append(draw_plane(title, codes, letter, [edge, edge]))
    print_side_by_side(pictures)

    print(f"\nPoints, and what the VAE with beta {main_beta} makes:")
    path = interpolate(models[main_beta], heldout[0], heldout[-1])
    limits = [1.7, 1.1]
    pictures = [
        draw_plane("held-out points, a to z", heldout, letter, limits),
        draw_plane("samples", samples, "*" * len(samples), limits),
        draw_plane("a path between codes, 0 to 9", path, "0123456789", limits),
    ]
    print_side_by_side(pictures)


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
# None. This is the engine of microgpt and of docs/autograd-interface.md.


# Training needs Values. A trained model only has to be asked, and needs no gradient: its numbers
# are floats, which is much faster. The functions below take both.
def exp(x):
    """e to the power of x, a Value or a float."""
    return x.exp() if isinstance(x, Value) else math.exp(x)


def relu(x):
    """x if it is positive, else 0. x is a Value or a float."""
    return x.relu() if isinstance(x, Value) else max(0.0, x)


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
